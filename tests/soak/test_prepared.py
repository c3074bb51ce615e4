"""The rows of the table in docs/soak.md that concern prepared data."""

import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time

import pytest

import storage
from configs import schema
from input_pipeline import manifest, pretraining

pytestmark = pytest.mark.soak

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _command(prepared_dir, num_processes, *flags):
    return [
        sys.executable,
        "-m",
        "trainer.main",
        "--mode=prepare",
        f"--workdir={prepared_dir}/workdir",
        f"--config.data.prepared_dir={prepared_dir}",
        f"--config.data.num_processes={num_processes}",
        *flags,
    ]


def _start(prepared_dir, num_processes, *flags):
    return subprocess.Popen(
        _command(prepared_dir, num_processes, *flags),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _prepare(prepared_dir, num_processes, *flags):
    """Every file that was prepared, by name."""
    process = _start(prepared_dir, num_processes, *flags)
    assert process.wait() == 0
    (path,) = prepared_dir.glob("*/manifest.json")
    assert not list(prepared_dir.glob("*.tmp-*"))
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


@pytest.fixture(name="sample", scope="module")
def _sample(tmp_path_factory):
    """Where the sample corpus is prepared by one process, and its files."""
    directory = tmp_path_factory.mktemp("sample")
    return directory, _prepare(directory, 1)


@pytest.mark.parametrize(
    "flags",
    [(), ("--config.tokenizer.kind=wordpiece",)],
    ids=["word", "wordpiece"],
)
def test_numbers_of_processes(record, sample, tmp_path, flags):
    one = sample[1] if not flags else _prepare(tmp_path / "1", 1, *flags)
    same = [
        _prepare(tmp_path / str(number), number, *flags) == one
        for number in (2, 4)
    ]
    record(
        f"prepare with 1, 2 and 4 processes {' '.join(flags)}".strip(),
        "identical" if all(same) else "DIFFERENT",
        "identical",
    )
    assert all(same)


def _members(group):
    """The processes of a group that still run."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(number) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_prepare_killed_half_way(record, sample, tmp_path):
    """`kill -9` of all its processes, or of the first: the rest must end."""
    _, whole = sample
    generator = random.Random(0)
    num_kills, num_half_way, num_partial, num_left = 12, 0, 0, 0
    start = time.monotonic()
    assert _prepare(tmp_path / "0", 2) == whole
    seconds = time.monotonic() - start
    for number in range(1, num_kills + 1):
        directory = tmp_path / str(number)
        process = _start(directory, 2)
        time.sleep(generator.uniform(0.2, 1.0) * seconds)
        if number % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while _members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        num_left += len(_members(process.pid))
        num_half_way += any(directory.glob("*.tmp-*"))
        for path in directory.glob("*/manifest.json"):
            if ".tmp-" not in path.parent.name:
                manifest.open_prepared(path.parent)
        num_partial += _prepare(directory, 2) != whole
    record(
        f"prepare killed {num_kills} times ({num_half_way} of them while it"
        " wrote) and started again",
        f"{num_kills - num_partial} identical; {num_left} processes left over",
        f"{num_kills} identical; 0",
    )
    assert num_half_way > 0
    assert num_partial == num_left == 0


def test_flipped_bytes(record, sample):
    directory, whole = sample
    (path,) = directory.glob("*/manifest.json")
    directory = path.parent
    generator = random.Random(1)
    num_flips, num_named = 200, 0
    for _ in range(num_flips):
        name = generator.choice(sorted(whole))
        damaged = bytearray(whole[name])
        damaged[generator.randrange(len(damaged))] ^= generator.randrange(
            1, 256
        )
        (directory / name).write_bytes(damaged)
        try:
            manifest.open_prepared(directory)
        except storage.DamagedError as error:
            num_named += name in str(error)
        (directory / name).write_bytes(whole[name])
    manifest.open_prepared(directory)
    record(
        f"{num_flips} flipped bytes over the {len(whole)} files of a prepared"
        " directory",
        f"{num_named} detected and the file named",
        f"{num_flips}",
    )
    assert num_named == num_flips


def test_time_to_the_first_batch(record, sample):
    directory, _ = sample
    (path,) = directory.glob("*/manifest.json")
    prepared = manifest.open_prepared(path.parent)
    config = schema.Config(
        seed=3,
        data=schema.DataConfig(sequence_length=prepared.sequence_length),
    )

    def seconds(first_step):
        start = time.perf_counter()
        batches = pretraining.training_batches(
            prepared, config, first_step=first_step
        )
        next(iter(batches))
        return time.perf_counter() - start

    seconds(5)  # What is imported and set up once.
    found = {0: [], 10**9: []}
    for _ in range(5):
        for step, times in found.items():
            times.append(seconds(step))
    first, far = (statistics.median(times) for times in found.values())
    record(
        "time to first batch at step 10^9 over step 0",
        f"{far / first:.2f} ({far:.3f} s over {first:.3f} s)",
        "at most 1.3",
    )
    assert far / first <= 1.3
