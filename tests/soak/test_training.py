"""All layouts, bfloat16, and checkpoints flipped and killed by the hundred."""

import itertools
import random
import signal

import pytest
import tensorflow as tf

from tests.trainer import test_killed_saves
from tests.trainer.training import conftest as tiny

pytestmark = pytest.mark.soak
NUM_STEPS = 50


@pytest.fixture(scope="module")
def reference():
    """(losses, weights) of one replica, no accumulation, no XLA."""
    model = tiny.create(tiny.mirrored(1))
    return model.losses(NUM_STEPS), model.weights()


def test_matrix_of_layouts(reference, record):
    loss = weight = 0.0
    for replicas, parts, jit in itertools.product(
        (1, 2, 4), (1, 2, 4), (False, True)
    ):
        model = tiny.create(
            tiny.mirrored(replicas), accumulation_steps=parts, jit=jit
        )
        model.model.encoder.rematerialize = parts > 1
        losses = model.losses(NUM_STEPS)
        loss = max(loss, tiny.largest_relative(losses, reference[0]))
        weight = max(
            weight, tiny.largest_difference(model.weights(), reference[1])
        )
    record("matrix of layouts: largest relative loss", loss, 1e-5)
    record("matrix of layouts: largest weight", weight, 1e-5)
    assert loss <= 1e-5
    assert weight <= 1e-5


def test_bfloat16(reference, record):
    losses = tiny.create(tiny.mirrored(1), precision="bfloat16").losses(
        NUM_STEPS
    )
    figure = tiny.largest_relative(losses, reference[0])
    record("bfloat16 against float32: largest relative loss", figure, 2e-2)
    assert 0 < figure <= 2e-2


def test_several_steps_a_program_in_float16(record):
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    fields = {"jit": True, "precision": "float16"}
    one = tiny.create(strategy, **fields)
    several = tiny.create(strategy, steps_per_program=4, **fields)
    for model in (one, several):
        model.run(iter(tiny.batches(strategy)), 0, NUM_STEPS)
    weight = tiny.largest_difference(several.weights(), one.weights())
    record("programs of four steps, float16: largest weight", weight, 1e-3)
    assert weight <= 1e-3


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_two_workers(tmp_path, reference, record, accumulation_steps):
    workers = tiny.start_workers(
        tmp_path, num_steps=NUM_STEPS, accumulation_steps=accumulation_steps
    )
    try:
        ends = tiny.end_workers(workers, signal.SIGTERM)
    finally:
        for process in workers:
            process.kill()
    assert ends[0]["done"] == ends[1]["done"]
    results = [tiny.read_worker(tmp_path, index) for index in range(2)]
    loss = max(tiny.largest_relative(r[0], reference[0]) for r in results)
    weight = max(tiny.largest_difference(r[1], reference[1]) for r in results)
    name = f"two workers, accumulation {accumulation_steps}"
    record(f"{name}: largest relative loss", loss, 1e-5)
    record(f"{name}: largest weight", weight, 1e-5)
    assert loss <= 1e-5
    assert weight <= 1e-5


def test_flipped_bytes_in_checkpoints(tmp_path, record):
    run = test_killed_saves.Run(tmp_path)
    run.save(1)
    run.save(2, validation_loss=1.5)
    directory = max(tmp_path.iterdir())
    chance, seen = random.Random(5), 0
    files = sorted(directory.iterdir())
    for number in range(100):
        file = files[number % len(files)]
        good = file.read_bytes()
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= chance.randrange(1, 256)
        file.write_bytes(bad)
        seen += run.restore() == {"step": 1} and run.values() == {1.0}
        file.write_bytes(good)
    record("flipped bytes in checkpoints: seen of 100", seen, 100)
    assert run.restore()["step"] == 2
    assert seen == 100


def test_kills_during_saves(tmp_path, record):
    lost = test_killed_saves.kill_savers(tmp_path, num_kills=100, seed=3)
    record("100 kills during saves: lost", lost, 0)
    assert lost == 0


def test_kills_during_saves_to_a_store(bucket, record):
    place = ("gs://bucket/run/checkpoints", bucket.root)
    lost = test_killed_saves.kill_savers(*place, num_kills=100, seed=4)
    record("100 kills during saves to an object store: lost", lost, 0)
    assert lost == 0
