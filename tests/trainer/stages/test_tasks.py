"""Pretraining as people run it: processes that are killed, stopped, doubled."""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import storage
from tests.trainer.training import conftest as training
from trainer import main as cli
from trainer.commands import pretrain
from trainer.run import Run

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
    pretrain.run(Run(tiny(changes), workdir=str(workdir), runtime=one_device))
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
