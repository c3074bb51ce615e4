"""Processes that are killed while they save lose no checkpoint."""

import random
import time

import pytest

import storage
from tests.trainer.test_checkpoint import Run
from tests.trainer.training import conftest as tiny

# As much of Keras as a checkpoint needs: TensorFlow takes seconds.
SAVER = """
import sys
import numpy as np
class Variable:
    def __init__(self, path, *shape):
        self.path, self.shape = path, shape
    def assign(self, value):
        self.value = np.array(value, "f4")
    def numpy(self):
        return self.value
from tests import bucket
from trainer import checkpoint
import storage
weights = [Variable("kernel", 3, 2), Variable("bias", 2)]
optimizer = [Variable("iteration"), Variable("momentum", 3, 2)]
if len(sys.argv) > 2:
    bucket.Bucket(sys.argv[2]).install()
checkpoints = checkpoint.Checkpoints(storage.path_of(sys.argv[1]))
state = checkpoints.restore(weights=weights, optimizer=optimizer)
step = state.get("step", 0)
while True:
    step += 1
    for v in (*weights, *optimizer):
        v.assign(np.full(v.shape, step))
    loss = step * 7919 % 101 / 10
    checkpoints.save({"step": step, "validation_loss": loss},
                     weights=weights, optimizer=optimizer)
    print(step, flush=True)
"""


@pytest.mark.parametrize("place", ["disk", "store"])
def test_kills_during_saves_lose_nothing(place, tmp_path, bucket):
    where = [tmp_path / "checkpoints"]
    if place == "store":
        where = ["gs://bucket/run/checkpoints", bucket.root]
    assert kill_savers(*where, num_kills=2, seed=1) == 0


def kill_savers(directory, *bucket, num_kills, seed):
    """Kills processes that save without end; how often something was lost."""
    chance, lost, reached = random.Random(seed), 0, 0
    for _ in range(num_kills):
        process = tiny.start(SAVER, directory, *bucket)
        said = process.stdout.readline()  # It saves.
        time.sleep(chance.uniform(0.0, 0.15))
        process.kill()
        said += process.communicate()[0]
        # The last line may be torn.
        acknowledged = int(said.rpartition("\n")[0].splitlines()[-1])
        run = Run(storage.path_of(directory))
        state = run.restore()
        good = run.values() == {float(state["step"])}
        lost += not (good and state["step"] >= acknowledged > reached)
        reached = state["step"]
    return lost
