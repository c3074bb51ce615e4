"""Pretraining as people run it: processes that are killed, stopped, doubled."""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest

import storage
from tests.trainer.training import conftest as processes
from trainer import main as cli
from trainer.commands import pretrain
from trainer.run import Run

CODE = "import sys; from trainer import main; sys.exit(main.main())"


def last_step(look, workdir):
    """The step of the last event, 0 if there is none."""
    try:
        return look.events(workdir)[-1]["step"]
    except (OSError, IndexError, ValueError):
        return 0


def send_after(process_id, look, workdir, *, step, sent, over=None):
    """Sends a signal soon after a run has logged a step, unless it is over."""
    over = over or threading.Event()
    limit = time.monotonic() + 300
    while last_step(look, workdir) < step and time.monotonic() < limit:
        if over.wait(0.005):
            return
    os.kill(process_id, sent)


LONG = {"train.num_steps": 400, "train.steps_per_epoch": 10_000}
LONG |= {"train.log_every": 50, "train.steps_per_call": 50}
LONG |= {"checkpoint.every_steps": 50, "evaluation.every_steps": 100}


def test_killed_and_stopped_a_run_ends_as_if_undisturbed(
    tiny, one_device, flags, look, tmp_path, capfd
):
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "run"
    pretrain.run(Run(tiny(LONG), workdir=str(undisturbed), runtime=one_device))
    argv = flags(workdir, **{f"config.{k}": v for k, v in LONG.items()})
    process = processes.start(CODE, *argv)
    send_after(process.pid, look, workdir, step=50, sent=signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    over, sent = threading.Event(), signal.SIGTERM
    killer = threading.Thread(
        target=send_after,
        args=(os.getpid(), look, workdir),
        kwargs={"step": 150, "sent": sent, "over": over},
    )
    killer.start()
    code = cli.main(argv)
    over.set()
    killer.join()
    assert code == 128 + signal.SIGTERM
    err = capfd.readouterr().err
    assert err.endswith("cloze: stopped by SIGTERM; the same command resumes\n")
    newest = look.checkpoints(workdir)[-1]
    storage.verify(newest)
    stopped = int(newest.name.removeprefix("step-"))
    assert cli.main(argv) == 0

    # A line at a stop, or the first after it, tells of some of the steps.
    partial = {stopped, -(-stopped // 50) * 50}
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
    hosts = [f"127.0.0.1:{port}" for port in processes.free_ports(2)]
    running = []
    for index, more in enumerate(((), second)):
        task = {"type": "worker", "index": index}
        text = json.dumps({"cluster": {"worker": hosts}, "task": task})
        words = (*argv, "--strategy=multi_worker", *more)
        running.append(processes.start(CODE, *words, TF_CONFIG=text))
    try:
        outputs = [process.communicate(timeout=150) for process in running]
    finally:
        for process in running:
            process.kill()
    return [
        (process.returncode, *output)
        for process, output in zip(running, outputs, strict=True)
    ]


def test_two_workers_go_on_with_a_run_of_one_device(
    copied, finished, flags, look
):
    workdir = copied(20)
    chief, other = run_two_workers(flags(workdir))
    # A worker leaves the talking to the chief.
    assert other[:2] == (0, ""), other
    assert other[2] in ("", "waiting until all 2 processes run\n")
    code, out, err = chief
    assert code == 0, err
    assert "resuming from step 20" in err
    assert "epoch 2: " in out
    assert "the movie was [MASK]" in out
    ours, others = look.weights(workdir), look.weights(finished.workdir)
    for name in others:
        np.testing.assert_allclose(ours[name], others[name], atol=1e-5)


@pytest.mark.soak  # Two processes; how they compare: test_workers.py.
def test_two_workers_that_differ_are_refused(flags, tmp_path):
    differing = ["--config.train.log_every=7", "--config.masking.policy=span"]
    results = run_two_workers(flags(tmp_path / "run"), second=differing)
    for code, out, err in results:
        assert (code, out) == (2, ""), err
        assert err.splitlines()[-1] == (
            'cloze: The workers differ in masking.policy: "token" (worker 0),'
            ' "span" (worker 1); train.log_every: 5 (worker 0), 7 (worker 1).'
            " Start all with the same flags, files and packages."
        )
    assert not list(tmp_path.rglob("*.json*"))
