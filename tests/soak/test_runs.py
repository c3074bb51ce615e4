"""Runs that are killed, moved to other devices, and looked at.

On the sample corpus, in float32, as processes of their own.
"""

import contextlib
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

from configs import overrides
from input_pipeline import manifest, preparation
from tests import test_docs
from tests.soak import conftest

pytestmark = pytest.mark.soak
ROOT = pathlib.Path(__file__).resolve().parents[2]
LAYOUTS = {
    "one_device": ("--strategy=one_device",),
    "mirrored 2": ("--strategy=mirrored", "--num_virtual_devices=2"),
    "mirrored 4": ("--strategy=mirrored", "--num_virtual_devices=4"),
    "two workers": ("--strategy=multi_worker",),
}
NUM_STEPS = 1_000
CHANGES = {
    **conftest.TINY,
    "optimizer.schedule": "constant",
    "train.num_steps": str(NUM_STEPS),
    "train.steps_per_epoch": "300",
    "train.steps_per_call": "10",
    "train.log_every": "5",
    "checkpoint.every_steps": "5",
}


@pytest.fixture(scope="module")
def prepared_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def flags(prepared_dir):
    """A function: workdir and changes of the config -> a command line."""

    def create(workdir, **more):
        changes = {**CHANGES, "data.prepared_dir": prepared_dir}
        changes |= {name.replace("__", "."): v for name, v in more.items()}
        return [
            f"--workdir={workdir}",
            "--mode=pretrain",
            "--strategy=one_device",
            *(f"--config.{name}={value}" for name, value in changes.items()),
        ]

    return create


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    """The workdir of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish([start(flags(workdir, checkpoint__keep_last=9_999))])
    return workdir


def start(argv, *, within=(), **environment):
    """The program, started with these flags, as if there were no GPU.

    XLA optimises as it does for users, not as in the fast tests.

    `within`: the words before it, such as those that choose a network.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment = {**inherited, "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.Popen(
        [*within, sys.executable, "-m", "trainer.main", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def finish(processes):
    """What the first of them printed; all must end well."""
    results = [process.communicate(timeout=1_800) for process in processes]
    for process, (_, err) in zip(processes, results, strict=True):
        assert process.returncode == 0, err[-4_000:]
    return results[0][0]


def start_on(layout, argv):
    """The processes of a layout, the chief first."""
    argv = [*argv, *LAYOUTS[layout]]
    if layout != "two workers":
        return [start(argv)]
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    hosts = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [
        start(
            argv,
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": hosts},
                    "task": {"type": "worker", "index": index},
                }
            ),
        )
        for index in range(2)
    ]


def losses(workdir):
    """{(step, name): loss} of a run; {} before its first event."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return {
        (event["step"], name): event[name]
        for event in map(json.loads, lines)
        for name in ("loss", "validation_loss")
        if name in event
    }


def last_checkpoint(workdir, stage):
    return max((pathlib.Path(workdir) / "checkpoints" / stage).glob("step-*"))


def last_step(workdir):
    return max((step for step, _ in losses(workdir)), default=0)


def difference(workdir, other, *, at=None):
    """The largest relative difference of two runs' losses.

    `at`: the steps to compare; None = all, which both must have.
    """
    mine, theirs = losses(workdir), losses(other)
    if at is None:
        assert mine.keys() == theirs.keys()
    else:
        mine = {key: v for key, v in mine.items() if key[0] in at}
    assert mine
    return max(abs(v / theirs[key] - 1) for key, v in mine.items())


def unbroken(workdir, *, log_every):
    """The steps of those lines of a stopped run that others have as well.

    A line at a stop, or the first after it, tells of fewer steps.
    """
    steps = {step for step, _ in losses(workdir)}
    stops = {step for step in steps if step % log_every}
    return steps - stops - {s + log_every - s % log_every for s in stops}


def weight_difference(workdir, other, *, stage="pretrain"):
    """The largest absolute difference of two runs' final weights."""
    mine, theirs = (
        safetensors.numpy.load_file(last / "weights.safetensors")
        for last in (last_checkpoint(path, stage) for path in (workdir, other))
    )
    assert mine.keys() == theirs.keys()
    return max(float(np.abs(mine[k] - theirs[k]).max()) for k in mine)


def wait_until(is_due, process):
    limit = time.monotonic() + 300
    while not is_due():
        assert process.poll() is None, process.communicate()[1][-4_000:]
        assert time.monotonic() < limit
        time.sleep(0.0005)


def test_killed_at_twenty_random_moments(flags, undisturbed, tmp_path, record):
    workdir = tmp_path / "killed"
    unfinished = workdir / "checkpoints" / "pretrain"
    chance = random.Random(20)
    inside_a_save = 0
    for number in range(20):
        step = chance.randrange(45 * number, 45 * number + 45)
        process = start(flags(workdir))
        if number % 5 == 4:
            # Any time, importing, preparing and tracing included.
            time.sleep(chance.uniform(0, 15))
        else:
            wait_until(lambda step=step: last_step(workdir) >= step, process)
            time.sleep(chance.uniform(0, 0.03))
        if number % 5 in (1, 3):
            wait_until(lambda: any(unfinished.glob("*.tmp-*")), process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        mine = f"*.tmp-{process.pid}"
        inside_a_save += any(unfinished.glob(mine))
    finish([start(flags(workdir))])
    assert inside_a_save >= 3
    record("kill -9 at 20 moments: of them inside a save", inside_a_save, 3)
    worst = difference(workdir, undisturbed)
    record("kill -9 at 20 moments: losses, relative", worst, 1e-5)
    weights = weight_difference(workdir, undisturbed)
    record("kill -9 at 20 moments: weights, absolute", weights, 1e-5)
    assert worst <= 1e-5
    assert weights <= 1e-5


def test_resumes_on_other_devices_in_mid_epoch(
    flags, undisturbed, tmp_path, record
):
    workdir = tmp_path / "moved"
    shutil.copytree(undisturbed, workdir)
    for path in (workdir / "checkpoints" / "pretrain").iterdir():
        if int(path.name.removeprefix("step-")) > 130:
            shutil.rmtree(path)
    ends = {
        "mirrored 2": 380,
        "two workers": 560,
        "one_device": 740,
        "mirrored 4": NUM_STEPS,
    }
    begin = 130
    same = []
    for layout, end in ends.items():
        shown = {"inspect__step": begin, "inspect__num_steps": 8}
        inspection = [*flags(workdir, **shown), "--mode=inspect"]
        here, there = (
            finish(start_on(name, inspection))
            for name in (layout, "one_device")
        )
        same.append(here == there and here.count("\n") == 8)
        argv = flags(workdir, train__num_steps=end)
        finish(start_on(layout, argv))
        assert last_step(workdir) == end
        begin = end
    record("resume on other devices: batches that differ", same.count(False), 0)
    steps = {step for step, _ in losses(undisturbed)}
    worst = difference(workdir, undisturbed, at=steps - {*ends.values()})
    record("resume on other devices: losses, relative", worst, 1e-5)
    weights = weight_difference(workdir, undisturbed)
    record("resume on other devices: weights, absolute", weights, 1e-5)
    assert all(same)
    assert worst <= 1e-5
    assert weights <= 1e-5


def test_digests_are_the_same_everywhere(flags, tmp_path, record):
    argv = flags(tmp_path)
    config = overrides.load_config(
        str(ROOT / "configs" / "sample.py"),
        changes=dict(
            word.removeprefix("--").split("=", 1)
            for word in argv
            if word.startswith("--config.")
        ),
    )
    prepared = manifest.open_prepared(preparation.prepare(config))
    rows = prepared.roles["train"].num_rows
    first = rows // config.train.global_batch_size - 128
    seen = {}
    for layout in LAYOUTS:
        for accumulation in (1, 2, 4):
            shown = flags(
                tmp_path,
                inspect__step=first,
                inspect__num_steps=256,
                inspect__num_rows=0,
                train__accumulation_steps=accumulation,
            )
            out = finish(start_on(layout, [*shown, "--mode=inspect"]))
            lines = [json.loads(line) for line in out.splitlines()]
            assert [line["step"] for line in lines] == [
                *range(first, first + 256)
            ]
            seen[layout, accumulation] = [line["digest"] for line in lines]
    expected = seen["one_device", 1]
    assert len(set(expected)) == 256
    differing = sum(
        a != b
        for digests in seen.values()
        for a, b in zip(digests, expected, strict=True)
    )
    record("digests of 256 steps in 12 layouts: that differ", differing, 0)
    assert not differing


def test_matrix_of_layouts_of_fine_tuning(flags, undisturbed, tmp_path, record):
    changes = {
        "init_from": undisturbed,
        "finetune__num_epochs": 1,
        "finetune__global_batch_size": 16,
        "finetune__dropout": 0.1,
        "finetune__word_dropout": 0.1,
        "finetune__average_decay": 0.9,
    }

    def finetuned(name, layout="one_device", parts=1, jit="off"):
        settings = {"train__accumulation_steps": parts, "train__jit": jit}
        argv = flags(tmp_path / name, **changes, **settings)
        finish(start_on(layout, [*argv, "--mode=finetune"]))
        return tmp_path / name

    reference = finetuned("reference")
    assert last_step(reference) >= 50
    loss = weight = 0.0
    cells = itertools.product(LAYOUTS, (1, 2, 4), ("off", "on"))
    for number, cell in enumerate(cells):
        workdir = finetuned(str(number), *cell)
        loss = max(loss, difference(workdir, reference))
        weight = max(
            weight, weight_difference(workdir, reference, stage="finetune")
        )
    record("fine-tuning in 24 layouts: losses, relative", loss, 1e-5)
    record("fine-tuning in 24 layouts: weights, absolute", weight, 1e-5)
    assert loss <= 1e-5
    assert weight <= 1e-5


def test_a_whole_classifier_is_killed_at_ten_moments(tmp_path, record):
    """With n-grams that learn from other text, two seeds and a student."""
    test_docs.write_texts(tmp_path)
    changes = {
        **conftest.TINY,
        "data.source": "csv",
        "data.path": str(tmp_path / "labelled.csv"),
        "data.unlabeled_path": str(tmp_path / "more" / "*.csv"),
        "data.label_field": "team",
        "data.prepared_dir": str(tmp_path / "prepared"),
        "train.num_steps": "60",
        "finetune.num_epochs": "4",
        "finetune.num_seeds": "2",
        "finetune.self_training_rounds": "1",
        "checkpoint.every_steps": "5",
    }

    def argv(name):
        fields = (f"--config.{key}={value}" for key, value in changes.items())
        return [f"--workdir={tmp_path / name}", *fields]

    begin = time.monotonic()
    finish([start(argv("undisturbed"))])
    seconds = time.monotonic() - begin
    shutil.rmtree(tmp_path / "prepared")
    chance, killed = random.Random(10), 0
    for _ in range(10):
        process = start(argv("killed"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, seconds / 2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    finish([start(argv("killed"))])
    record("a classifier killed at 10 moments: kills that hit", killed, 5)
    stages = sorted(
        path.name for path in (tmp_path / "undisturbed/checkpoints").iterdir()
    )
    assert len(stages) > 4  # The encoder, two seeds, their average, a student.
    weights = max(
        weight_difference(
            tmp_path / "killed", tmp_path / "undisturbed", stage=stage
        )
        for stage in stages
    )
    record("a classifier killed at 10 moments: weights", weights, 1e-5)
    answers, expected = (
        np.load(tmp_path / name / "predictions.npz")["probabilities"]
        for name in ("killed", "undisturbed")
    )
    worst = float(np.abs(answers - expected).max())
    record(
        "a classifier killed at 10 moments: answers to the test", worst, 1e-5
    )
    assert killed >= 5
    assert weights <= 1e-5
    assert worst <= 1e-5
