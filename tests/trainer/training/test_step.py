"""The layout of a step changes nothing; XLA is where it should be."""

import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.training import conftest as tiny
from trainer.training import objective
from trainer.training import step as step_lib

NUM_STEPS = 4
PREDICTED = [np.roll(tiny.COUNTS, n).sum() for n in range(NUM_STEPS)]


@pytest.fixture(scope="module")
def reference():
    """(losses, weights) of one replica, no accumulation, no XLA."""
    model = tiny.create(tiny.mirrored(1))
    before, losses = model.weights(), model.losses(NUM_STEPS)
    assert tiny.largest_difference(before, model.weights()) > 1e-3
    # Dropout is drawn, or the tests would not see where it is drawn from.
    batch = tiny.batch_of(0)
    sums = objective.masked_lm(model.model.predictions(batch), batch)
    assert abs(sums["loss"] / PREDICTED[0] / losses[0] - 1) > 1e-3
    return losses, model.weights()


def assert_same_steps(model, iterator, reference):
    """Runs NUM_STEPS steps in two calls, the first of three."""
    first = model.run(iterator, 0, 3)
    second = model.run(iterator, 3, 1)
    assert (first[0], second[0]) == (3, 1)
    assert first[2]["weight"] == sum(PREDICTED[:3])
    for (_, wants_stop, sums), steps in ((first, slice(3)), (second, [3])):
        assert wants_stop == 0
        loss = np.dot(np.array(reference[0])[steps], np.array(PREDICTED)[steps])
        np.testing.assert_allclose(sums["loss"], loss, rtol=1e-5)
    assert tiny.largest_difference(model.weights(), reference[1]) < 1e-5


@pytest.mark.parametrize(
    ("replicas", "accumulation_steps", "jit", "rematerialize"),
    [(2, 2, False, False), (1, 4, True, True)],
)
def test_layout_changes_nothing(
    reference, replicas, accumulation_steps, jit, rematerialize
):
    one_device = tf.distribute.OneDeviceStrategy("CPU:0")
    model = tiny.create(
        tiny.mirrored(replicas) if replicas > 1 else one_device,
        accumulation_steps=accumulation_steps,
        jit=jit,
    )
    model.model.encoder.rematerialize = rematerialize
    iterator = iter(tiny.batches(model.strategy))
    assert_same_steps(model, iterator, reference)
    # Every replica of a worker wants to stop. Neither a new iterator nor
    # another number of steps traces anew.
    model.flag.assign(1.0)
    stopped = model.run(iter(tiny.batches(model.strategy)), 4, 2)
    assert stopped[:2] == (1, replicas)
    assert model.call.experimental_get_tracing_count() == 1
    assert_products_are_compiled(model, iterator, jit=jit)


def assert_products_are_compiled(model, iterator, *, jit):
    """XLA has all products where it is asked for, and no update."""
    concrete = model.call.get_concrete_function(
        iterator, tf.constant(0, tf.int64), tf.constant(1)
    )
    graph = concrete.graph.as_graph_def()
    library = {f.signature.name: f for f in graph.library.function}
    nodes = {True: [], False: []}

    def visit(these, compiled):
        for node in these:
            nodes[compiled].append((node.op, node.name))
            must = compiled or node.attr["_XlaMustCompile"].b
            for value in node.attr.values():
                if value.HasField("func"):
                    called = library[value.func.name]
                    inside = must or called.attr["_XlaMustCompile"].b
                    visit(called.node_def, inside)

    visit(graph.node, False)
    products = ("MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")
    parts = {"attention", "vocabulary", "intermediate"}
    found = {
        compiled: {
            part
            for op, name in nodes[compiled]
            for part in parts
            if op in products and part in name
        }
        for compiled in (True, False)
    }
    assert found == {jit: parts, not jit: set()}
    assert not [op for op, _ in nodes[True] if "ApplyAdam" in op]
    assert [op for op, _ in nodes[False] if op == "ResourceApplyAdam"]


@pytest.mark.soak  # Off by default; XLA compiles three programs.
def test_several_steps_a_program_are_the_same_steps(reference):
    one_device = tf.distribute.OneDeviceStrategy("CPU:0")
    model = tiny.create(one_device, steps_per_program=2, jit=True)
    iterator = iter(tiny.batches(one_device))
    assert_same_steps(model, iterator, reference)  # Programs of 2, 1 and 1.
    # It stops behind a program.
    model.flag.assign(1.0)
    assert model.run(iterator, 4, 9)[:2] == (2, 1.0)


@pytest.mark.parametrize(("replicas", "jit"), [(2, True), (1, False)])
def test_several_steps_a_program_need_xla_and_one_replica(replicas, jit):
    with pytest.raises(ValueError, match="steps_per_program=4 needs XLA and"):
        tiny.create(tiny.mirrored(replicas), jit=jit, steps_per_program=4)


def assert_clipped(optimizer):
    # Adam's first momentum is 0.1 of the gradient that it was given.
    given = [m.numpy() / 0.1 for m in optimizer._momentums]
    norm = np.sqrt(sum(np.square(g).sum() for g in given))
    assert norm == pytest.approx(0.01, rel=1e-4)


def test_nothing_to_predict_clipping_a_stop_and_infinite_gradients():
    scale = tf.Variable(0.0)
    model = tiny.create(
        tf.distribute.OneDeviceStrategy("CPU:0"),
        weight_decay=0.0,
        clip_norm=0.01,
        change=lambda sums: {
            name: value * (scale if name in ("loss", "weight") else 1.0)
            for name, value in sums.items()
        },
    )
    iterator, before = iter(tiny.batches(model.strategy)), model.weights()
    done, _, sums = model.run(iterator, 0, 2)
    assert (done, sums["weight"], sums["loss"]) == (2, 0.0, 0.0)
    assert tiny.largest_difference(before, model.weights()) == 0.0
    scale.assign(1.0)
    model.run(iterator, 2, 1)
    assert_clipped(model.optimizer)
    model.flag.assign(1.0)
    done, wants_stop, sums = model.run(iterator, 3, 50)
    assert (done, wants_stop) == (1, 1.0)
    assert sums["weight"] == sum(tiny.COUNTS)
    scale.assign(
        1e25
    )  # The loss stays finite, the squares of gradients do not.
    _, _, sums = model.run(iterator, 4, 1)
    assert np.isnan(sums["loss"])
    assert np.isfinite(sums["weight"])


def test_float16_overflow_skips_the_update_and_goes_on():
    one_device = tf.distribute.OneDeviceStrategy("CPU:0")
    model = tiny.create(one_device, precision="float16", clip_norm=0.01)
    scale, updates = model.optimizer.dynamic_scale, model.optimizer.iterations
    scale.assign(2.0**40)
    before = model.weights()
    iterator = iter(tiny.batches(model.strategy))
    _, _, sums = model.run(iterator, 0, 1)
    assert np.isfinite(sums["loss"])
    assert tiny.largest_difference(before, model.weights()) == 0.0
    assert keras.ops.convert_to_numpy(scale) == 2.0**39
    assert keras.ops.convert_to_numpy(updates) == 0
    scale.assign(2.0**5)  # Nothing overflows.
    model.run(iterator, 1, 1)
    assert_clipped(model.optimizer.inner_optimizer)
    _, _, sums = model.run(iterator, 2, 2)
    assert np.isfinite(sums["loss"])
    assert keras.ops.convert_to_numpy(updates) == 3
    assert 0 < tiny.largest_difference(before, model.weights()) < 1.0


def test_evaluation_adds_up_over_replicas():
    strategy = tiny.mirrored(2)
    with strategy.scope():
        model = tiny.create_model("float32")

    def sums_of(batch):
        return objective.masked_lm_by_kind(
            model.predictions(batch), batch, mask_id=tiny.MASK_ID
        )

    call = step_lib.create_evaluation_call(strategy, sums_of, jit=False)
    whole = {k: tf.constant(v) for k, v in tiny.batch_of(0).items()}
    expected = sums_of(whole)
    for _ in range(2):
        sums = call(iter(tiny.batches(strategy)))
        assert sums.keys() == expected.keys()
        for name, value in sums.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5)
    assert call.experimental_get_tracing_count() == 1


@pytest.mark.soak  # A whole run of two workers: stages/test_processes.py.
def test_two_workers_are_one_process_and_stop_together(tmp_path, reference):
    workers = tiny.start_workers(tmp_path, num_steps=NUM_STEPS)
    try:
        ends = tiny.end_workers(workers, signal.SIGTERM)
    finally:
        for process in workers:
            process.kill()
    for index in range(2):
        losses, weights = tiny.read_worker(tmp_path, index)
        assert tiny.largest_relative(losses, reference[0]) < 1e-5
        assert tiny.largest_difference(weights, reference[1]) < 1e-5
    assert [end["chief"] for end in ends] == [True, False]
    assert [end["signal"] for end in ends] == [0, signal.SIGTERM]
    assert ends[0]["done"] == ends[1]["done"]
    assert 0 < ends[0]["done"] < 200_000
    for end in ends:
        assert 0 < end["waiting"] < 1
