"""Pretraining as people run it: processes, signals, bad input.

Processes that are killed, stopped, doubled, and given bad input.
"""

import contextlib
import gzip
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.trainer.training import conftest as training
from trainer import main as cli
from trainer import storage
from trainer import workdir as workdir_lib
from trainer.commands import pretrain

ROOT = pathlib.Path(cli.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def start(argv, **environment):
    """The program, started with these flags."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.main", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def last_step(look, workdir):
    """The step of the last event, 0 if there is none."""
    try:
        return look.events(workdir)[-1]["step"]
    except (OSError, IndexError, ValueError):
        return 0


def end_after(process, look, workdir, *, step, sent):
    """Sends a signal soon after the run has logged a step."""
    limit = time.monotonic() + 100
    while last_step(look, workdir) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)
    time.sleep(random.Random(step).uniform(0, 0.05))
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def check_stopped(look, workdir, code, err, *, sent):
    """Asserts a clean end by a signal; returns the step that was saved."""
    assert code == 128 + sent
    *_, last = err.splitlines()
    assert last == f"cloze: stopped by {sent.name}; the same command resumes"
    assert "Traceback" not in err
    newest = look.checkpoints(workdir)[-1]
    storage.verify(newest)
    return int(newest.name.removeprefix("step-"))


@contextlib.contextmanager
def killed_from_inside(look, workdir, *, step, sent):
    """Sends this process a signal soon after the run has logged a step."""

    def wait():
        while last_step(look, workdir) < step and not over.wait(0.005):
            pass
        if not over.is_set():
            os.kill(os.getpid(), sent)

    over = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


LONG = {"train__num_steps": 800, "train__steps_per_epoch": 10_000}
LONG |= {"train__log_every": 50, "train__steps_per_call": 50}
LONG |= {"checkpoint__every_steps": 50, "evaluation__every_steps": 200}


@pytest.fixture(scope="module")
def undisturbed(tiny, one_device, tmp_path_factory):
    """The workdir of a longer run."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    changes = {name.replace("__", "."): value for name, value in LONG.items()}
    pretrain.run(tiny(changes), workdir=str(workdir), runtime=one_device)
    return workdir


def test_killed_and_stopped_a_run_ends_as_if_undisturbed(
    undisturbed, flags, look, tmp_path, capfd
):
    workdir = tmp_path / "run"
    argv = flags(workdir, **{f"config__{k}": v for k, v in LONG.items()})
    for step in (50, 250):
        process = start(argv)
        code, _, _ = end_after(
            process, look, workdir, step=step, sent=signal.SIGKILL
        )
        assert code == -signal.SIGKILL

    process = start(argv)
    code, _, err = end_after(
        process, look, workdir, step=400, sent=signal.SIGTERM
    )
    assert "resuming from step" in err
    stopped = [check_stopped(look, workdir, code, err, sent=signal.SIGTERM)]
    assert f"saved:   step {stopped[0]} of 800" in err

    capfd.readouterr()
    with killed_from_inside(look, workdir, step=550, sent=signal.SIGINT):
        code = cli.main(argv)
    err = capfd.readouterr().err
    stopped += [check_stopped(look, workdir, code, err, sent=signal.SIGINT)]
    assert cli.main(argv) == 0

    # A line at a stop, or the first after it, tells of some of the steps.
    partial = {*stopped, *(-(-step // 50) * 50 for step in stopped)}
    mine, theirs = (
        {
            (event["step"], name): event[name]
            for event in look.events(path)
            for name in ("loss", "validation_loss")
            if name in event
            and (name != "loss" or event["step"] not in partial)
        }
        for path in (workdir, undisturbed)
    )
    assert mine == pytest.approx(theirs, rel=1e-5)
    ours, others = look.weights(workdir), look.weights(undisturbed)
    for name in others:
        np.testing.assert_allclose(ours[name], others[name], atol=1e-5)


def run_two_workers(argv, *, second=()):
    """[(exit code, stdout, stderr)] of both, the chief first.

    `second`: more flags, for the second one.
    """
    hosts = [f"127.0.0.1:{port}" for port in training.free_ports(2)]
    processes = [
        start(
            [*argv, "--strategy=multi_worker", *(second if index else ())],
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": hosts},
                    "task": {"type": "worker", "index": index},
                }
            ),
        )
        for index in range(2)
    ]
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=150)
            results.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return results


def is_silent(result):
    """Whether a worker ended well and left the talking to the chief."""
    code, out, err = result
    return (code, out) == (0, "") and err in (
        "",
        "waiting until all 2 processes run\n",
    )


def test_two_workers_go_on_with_a_run_of_one_device(
    copied, finished, flags, look
):
    workdir = copied(20)
    chief, other = run_two_workers(flags(workdir))
    assert is_silent(other), other[2]
    code, out, err = chief
    assert code == 0, err
    assert "resuming from step 20" in err
    assert "epoch 2: " in out
    assert "the movie was [MASK]" in out
    ours, others = look.weights(workdir), look.weights(finished.workdir)
    for name in others:
        np.testing.assert_allclose(ours[name], others[name], atol=1e-5)


def test_two_workers_see_the_batches_of_one_device(flags, tmp_path, capsys):
    argv = ["--mode=inspect", "--config.inspect.num_steps=4"]
    argv = [*flags(tmp_path / "run"), *argv, "--config.inspect.step=13"]
    assert cli.main(argv) == 0
    expected = capsys.readouterr().out
    assert expected.count("\n") == 4
    chief, other = run_two_workers(argv)
    assert chief[:2] == (0, expected)
    assert is_silent(other), other[2]


def test_two_workers_that_differ_are_refused(flags, tmp_path):
    workdir = tmp_path / "run"
    differing = ["--config.train.log_every=7", "--config.masking.policy=span"]
    results = run_two_workers(flags(workdir), second=differing)
    for code, out, err in results:
        assert (code, out) == (2, ""), err
        assert err.splitlines()[-1] == (
            'cloze: The workers differ in masking.policy: "token" (worker 0),'
            ' "span" (worker 1); train.log_every: 5 (worker 0), 7 (worker 1).'
            " Start all with the same flags, files and packages."
        )
    assert not list(tmp_path.rglob("*.json*"))


@pytest.mark.parametrize("name", ["multi_worker", "tpu"])
def test_a_layout_that_is_not_there_is_one_line(flags, tmp_path, name):
    process = start(
        [*flags(tmp_path / "run"), f"--strategy={name}"], TPU_NAME="local"
    )
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("cloze: ")
    words = {
        "multi_worker": ["needs the environment variable TF_CONFIG"],
        "tpu": ["found no TPU called 'local'", "choose --strategy=mirrored"],
    }
    assert all(word in err for word in words[name])


def complaint(capfd, argv):
    """The one line of a call that must be refused."""
    capfd.readouterr()
    assert cli.main(argv) == 2
    out, err = capfd.readouterr()
    *_, last = err.splitlines()
    assert "Traceback" not in err
    assert last.startswith("cloze: ")
    return last


GOOD = b"".join(b"some words number%d\n" % i for i in range(50))
RECORD = b'{"text": "a good one"}\n'


@pytest.mark.parametrize(
    ("name", "raw", "more", "words"),
    [
        ("a.txt", b"", {}, ["a.txt has no text: 1 file(s), all empty"]),
        ("a.txt", b"\n\n  \n", {}, ["holds no word at all", "data.path"]),
        ("a.txt", b"!!! ... ???\n" * 9, {}, ["holds no word at all"]),
        ("a.txt", b"\0\0\0\n" * 9, {}, ["holds no word at all"]),
        (
            "a.txt.gz",
            gzip.compress(GOOD * 99)[:-20],
            {},
            ["a.txt.gz is not a complete gzip file", "Fetch it again"],
        ),
        (
            "a.txt.gz",
            GOOD,
            {},
            ["a.txt.gz is not a complete gzip file", "Fetch it again"],
        ),
        (
            "a.txt",
            GOOD,
            {"data__path": "/none/*.txt"},
            ["data.path=/none/*.txt matches no file"],
        ),
        (
            "a.txt",
            GOOD,
            {"data__path": "/proc"},
            ["data.path=/proc is a directory; use '/proc/*.txt'"],
        ),
        (
            "a.csv",
            b"text,label\na good one,1\n,\n",
            {"data__source": "csv", "data__text_field": "review"},
            ["a.csv, record 1: no field 'review'; found 'text', 'label'"],
        ),
        (
            "a.jsonl",
            RECORD * 3 + b'{"txt": "x"}\n',
            {"data__source": "jsonl"},
            ["a.jsonl, line 4: no field 'text'; found 'txt'"],
        ),
        (
            "a.jsonl",
            RECORD * 2 + b'{"text": \n',
            {"data__source": "jsonl"},
            ["a.jsonl, line 3: "],
        ),
        (
            "a.txt",
            GOOD,
            {"tokenizer__vocabulary_size": 2**31},
            ["vocabulary_size=2147483648 does not fit", "at most 2147483647"],
        ),
        (
            "a.txt",
            GOOD,
            {"data__sequence_length": 7},
            ["data.sequence_length=7 must be at least 8"],
        ),
        (
            "a.txt",
            GOOD,
            {"masking__select_rate": 1.5},
            ["masking.select_rate=1.5 must lie between 0 and 1"],
        ),
        (
            "a.txt",
            GOOD,
            {"masking__mask_rate": -0.1},
            ["masking.mask_rate=-0.1 must lie between 0 and 1"],
        ),
        (
            "a.txt",
            GOOD,
            {"train__global_batch_size": 6, "train__accumulation_steps": 4},
            ["global_batch_size=6 must be a multiple of 4", "4 or 8 would do"],
        ),
    ],
    ids=[
        "empty file",
        "empty documents",
        "special characters",
        "NUL bytes alone",
        "truncated gzip",
        "no gzip",
        "no match",
        "directory",
        "csv without the field",
        "jsonl without the field",
        "broken jsonl",
        "vocabulary too large",
        "rows too short",
        "rate above 1",
        "rate below 0",
        "batch does not divide",
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    flags, tmp_path, capfd, name, raw, more, words
):
    path = tmp_path / name
    path.write_bytes(raw)
    more = {"data__path": path, **more}
    prepared = tmp_path / "prepared"
    argv = flags(
        tmp_path / "run",
        config__data__prepared_dir=prepared,
        **{f"config__{name}": value for name, value in more.items()},
    )
    line = complaint(capfd, argv)
    assert all(word in line for word in words), line
    assert not list(tmp_path.rglob("*.tmp-*"))
    if "global_batch_size" not in line:
        assert not [p for p in prepared.glob("*") if p.is_dir()]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\n" + GOOD, "1 documents left out: no text in them"),
        (b"!!!\n" + GOOD, "read 51 documents"),
        (b"bad \xff\xfe\n" + GOOD, "dropped 2 bytes: invalid utf8"),
        (b"nul \0 nul\n" + GOOD, "dropped 1 bytes: control"),
        (b"\xef\xbb\xbf" + GOOD, "dropped 3 bytes: byte order mark"),
        (GOOD.replace(b"\n", b"\r\n"), "kept 50 and 940"),
        (GOOD + b"long line " * 1_800_000, "17 documents made by cutting"),
    ],
    ids=[
        "empty document",
        "special characters",
        "bad UTF-8",
        "NUL",
        "byte order mark",
        "CRLF",
        "a line of 18 MB",
    ],
)
def test_input_that_can_be_cleaned_is_cleaned_and_counted(
    flags, tmp_path, caplog, raw, message
):
    path = tmp_path / "text.txt"
    path.write_bytes(raw)
    argv = flags(
        tmp_path / "run",
        config__data__path=path,
        config__data__prepared_dir=tmp_path / "prepared",
    )
    with caplog.at_level(logging.INFO):
        assert cli.main([*argv, "--mode=prepare"]) == 0
    assert message in caplog.text


def test_a_file_that_may_not_be_read(flags, tmp_path, capfd, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_bytes(GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):  # The superuser may read everything.
        monkeypatch.setattr(os, "access", lambda *_, **__: False)
    line = complaint(capfd, flags(tmp_path / "run", config__data__path=path))
    assert f"{path} cannot be read: permission denied" in line


def test_a_workdir_of_another_config(finished, flags, capfd):
    argv = flags(finished.workdir, config__seed=5)
    line = complaint(capfd, argv)
    assert "seed was 0, now 5" in line
    assert "choose another --workdir" in line


def test_two_trainers_in_one_workdir(copied, flags, capfd):
    workdir = copied(20)
    with workdir_lib.locked(str(workdir)):
        line = complaint(capfd, flags(workdir))
    assert f"Another trainer is at work in {workdir}; wait for it" in line


def test_a_loss_that_is_not_finite(copied, flags, capfd, look):
    workdir = copied(20)
    line = complaint(
        capfd,
        flags(
            workdir,
            config__optimizer__learning_rate=1e9,
            config__optimizer__clip_norm=0.0,
            config__checkpoint__allow_changed=True,
            config__checkpoint__every_steps=100,
            config__train__steps_per_epoch=100,
            config__train__num_steps=90,
            config__train__log_every=100,
        ),
    )
    assert "between steps" in line
    newest = look.checkpoints(workdir)[-1]
    assert newest.name == "step-000000020"
    storage.verify(newest)


@pytest.fixture
def small_disk(tmp_path):
    """A function: bytes -> a file system of that size, or of another later."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(size):
        options = f"size={size}" + (",remount" if os.path.ismount(path) else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path]
        if (
            not shutil.which("mount")
            or subprocess.run(command, capture_output=True).returncode
        ):
            pytest.skip("mounting a small file system is not permitted here")
        return path

    yield mount
    if os.path.ismount(path):
        subprocess.run(["umount", "--lazy", path], check=True)


def test_no_space_for_a_checkpoint(small_disk, flags, capfd, look, finished):
    workdir = small_disk(200_000) / "run"
    argv = flags(workdir)
    assert "no space left on the device; free some" in complaint(capfd, argv)
    kept = look.checkpoints(workdir)
    for path in kept:
        storage.verify(path)
    small_disk(10_000_000)
    assert cli.main(argv) == 0
    ours, others = look.weights(workdir), look.weights(finished.workdir)
    for name in others:
        np.testing.assert_allclose(ours[name], others[name], atol=1e-5)


def test_no_space_for_prepared_rows(small_disk, flags, capfd, tmp_path):
    prepared = small_disk(12_000) / "prepared"
    path = tmp_path / "text.txt"
    path.write_bytes(GOOD * 100)
    argv = flags(
        tmp_path / "run",
        config__data__path=path,
        config__data__prepared_dir=prepared,
    )
    argv.append("--mode=prepare")
    assert "no space left on the device; free some" in complaint(capfd, argv)
    assert not [p for p in prepared.glob("*") if p.is_dir()]
    small_disk(10_000_000)
    assert cli.main(argv) == 0
