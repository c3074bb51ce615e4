"""Pretraining as people run it: stopped, and as two processes."""

import json
import os
import signal

import keras
import numpy as np
import pytest

import storage
from configs import runtime
from tests.trainer.training import conftest as processes
from trainer.commands import pretrain
from trainer.run import Run

CODE = "import sys; from trainer import main; sys.exit(main.main())"


class Terminates(keras.callbacks.Callback):
    """Sends SIGTERM to this process, once, in the middle of an epoch."""

    sent = False

    def on_train_batch_end(self, batch, logs=None):
        if not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_was_stopped_ends_as_if_undisturbed(
    copied, tiny, one_device, finished, look
):
    """Killed ones: of each save, test_killed_saves.py, and the soak."""
    workdir = copied(10)

    def go_on(*callbacks):
        pretrain.run(
            Run(
                tiny(),
                workdir=str(workdir),
                runtime=one_device,
                callbacks=callbacks,
            )
        )

    with pytest.raises(runtime.Stopped) as stopped:
        go_on(Terminates())
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    newest = look.checkpoints(workdir)[-1]
    storage.verify(newest)
    step = int(newest.name.removeprefix("step-"))
    assert step not in (10, 33)
    go_on()
    # A line at a stop, or the first after it, tells of some of the steps.
    partial = {step, -(-step // 5) * 5}
    mine, theirs = (
        {
            (event["step"], name): event[name]
            for event in look.events(path)
            for name in ("loss", "validation_loss")
            if name in event
            and (name != "loss" or event["step"] not in partial)
        }
        for path in (workdir, finished.workdir)
    )
    assert mine == pytest.approx(theirs, rel=1e-5)
    ours, others = look.weights(workdir), look.weights(finished.workdir)
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
