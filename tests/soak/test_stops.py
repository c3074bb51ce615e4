"""SIGTERM in the midst of everything that a run does: nothing is lost."""

import json
import random
import signal

import pytest

from tests.soak import test_runs as runs
from tests.trainer.training import conftest as processes

pytestmark = pytest.mark.soak
CODE = """
import sys
from tests.soak import sigterm
sys.exit(sigterm.main(*sys.argv[1:]))
"""
EVERY = 10
# Place -> so many seconds, at most, after it began.
PLACES = {"compiling": 1.0, "step": 0.02, "save": 0.01, "evaluation": 0.1}
# Place and index of the worker; saves are the chief's.
OF_TWO = [(place, index) for place in PLACES for index in (0, 1)] * 2
OF_TWO = [aim for aim in OF_TWO if aim != ("save", 1)][:10]
CHANGES = {
    "train__num_steps": 1_000,
    "train__log_every": EVERY,
    "checkpoint__every_steps": EVERY,
    "evaluation__every_steps": 2 * EVERY,
}
prepared_dir, flags = runs.prepared_dir, runs.flags


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    """The workdir of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("stops") / "undisturbed"
    runs.finish([runs.start(flags(workdir, **CHANGES))])
    return workdir


class Tries:
    """Stops a run again and again."""

    def __init__(self, workdir):
        self.workdir = workdir
        self.lost = self.found = 0
        self._chance = random.Random(50)
        self._saved = 0

    def stop(self, start, argv, place, *, worker=0):
        """One try, by `start` of processes; the chief comes first."""
        number = self._chance.choice((1, 2)) if place == "save" else 1
        seconds = self._chance.uniform(0, PLACES[place])
        running = start(CODE, place, number, seconds, worker, *argv)
        try:
            results = [process.communicate(timeout=300) for process in running]
        finally:
            for process in running:
                process.kill()
        for process, (_, err) in zip(running, results, strict=True):
            assert process.returncode == 128 + signal.SIGTERM, err
            assert err.splitlines()[-1].startswith("cloze: stopped by SIGTERM")
        told = [json.loads(out.splitlines()[-1]) for out, _ in results]
        before, last = (
            self._saved,
            runs.last_checkpoint(self.workdir, "pretrain"),
        )
        self._saved = int(last.name.removeprefix("step-"))
        assert self._saved > before
        if before:
            assert f"resuming from step {before}\n" in results[0][1]
        [reached] = {each["reached"] for each in told}  # The same for all.
        assert runs.last_step(self.workdir) == reached
        self.lost += reached - self._saved
        self.found += told[worker]["found"] == place


def test_nothing_is_lost_wherever_a_signal_comes(
    flags, undisturbed, tmp_path, record
):
    tries = Tries(tmp_path / "stopped")
    argv = flags(tries.workdir, **CHANGES)
    for place in [*PLACES] * 10:
        tries.stop(lambda *words: [processes.start(*words)], argv, place)
    both = [*argv, "--strategy=multi_worker"]
    for place, worker in OF_TWO:
        tries.stop(processes.start_cluster, both, place, worker=worker)
    record("SIGTERM 50 times: steps lost", tries.lost, 0)
    record("SIGTERM 50 times: found where it was to come", tries.found, 40)
    assert tries.lost == 0
    assert tries.found >= 40

    runs.finish([runs.start(argv)])
    whole = runs.unbroken(tries.workdir, log_every=EVERY)
    worst = runs.difference(tries.workdir, undisturbed, at=whole)
    record("SIGTERM 50 times: losses, relative", worst, 1e-5)
    weights = runs.weight_difference(tries.workdir, undisturbed)
    record("SIGTERM 50 times: weights, absolute", weights, 1e-5)
    assert len(whole) >= 50
    assert worst <= 1e-5
    assert weights <= 1e-5
