"""The layout of a step changes nothing; XLA is where it should be."""

import functools
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.training import conftest as tiny
from trainer.training import objective
from trainer.training import step as step_lib

NUM_STEPS = 4


@pytest.fixture(scope="module")
def reference():
    """(losses, weights) of one replica, no accumulation, no XLA."""
    model = tiny.create(tiny.mirrored(1))
    return model.losses(NUM_STEPS), model.weights()


@pytest.mark.parametrize(
    ("replicas", "accumulation_steps", "jit"),
    [
        (2, 1, True),
        pytest.param(4, 1, False, marks=pytest.mark.soak),
        (1, 4, True),
        (2, 2, False),
    ],
)
def test_layout_changes_nothing(reference, replicas, accumulation_steps, jit):
    one_device = tf.distribute.OneDeviceStrategy("CPU:0")
    model = tiny.create(
        tiny.mirrored(replicas) if replicas > 1 else one_device,
        accumulation_steps=accumulation_steps,
        jit=jit,
    )
    losses = model.losses(NUM_STEPS)
    assert tiny.largest_relative(losses, reference[0]) < 1e-5
    assert tiny.largest_difference(model.weights(), reference[1]) < 1e-5


@pytest.mark.parametrize(
    ("replicas", "jit"),
    [(1, True), pytest.param(2, False, marks=pytest.mark.soak)],
)
def test_layers_computed_twice_change_nothing(reference, replicas, jit):
    model = tiny.create(tiny.mirrored(replicas), jit=jit)
    model.model.encoder.rematerialize = True
    losses = model.losses(NUM_STEPS)
    assert tiny.largest_relative(losses, reference[0]) < 1e-5
    assert tiny.largest_difference(model.weights(), reference[1]) < 1e-5


def test_reference_learns_and_draws_dropout(reference):
    still = tiny.create(tiny.mirrored(1), dropout=0.0)
    before = still.weights()
    losses = still.losses(NUM_STEPS)
    assert tiny.largest_relative(losses, reference[0]) > 1e-3
    assert tiny.largest_difference(before, reference[1]) > 1e-3


def test_several_steps_a_call_are_the_same_steps(reference):
    model = tiny.create(tiny.mirrored(2))
    iterator = iter(tiny.batches(model.strategy))
    first = model.run(iterator, 0, 3)
    second = model.run(iterator, 3, 1)
    assert (first[0], second[0]) == (3, 1)
    weights = [np.roll(tiny.COUNTS, n).sum() for n in range(NUM_STEPS)]
    assert first[2]["weight"] == sum(weights[:3])
    total = np.dot(reference[0], weights)
    loss = first[2]["loss"] + second[2]["loss"]
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    assert tiny.largest_difference(model.weights(), reference[1]) < 1e-5


@pytest.mark.parametrize(
    ("create_strategy", "precision", "tolerance"),
    [
        (lambda: tiny.mirrored(1), "float32", 1e-5),
        (lambda: tf.distribute.OneDeviceStrategy("CPU:0"), "float16", 1e-3),
    ],
    ids=["mirrored", "one_device"],
)
def test_several_steps_a_program_are_the_same_steps(
    create_strategy, precision, tolerance
):
    strategy = create_strategy()
    fields = {"jit": True, "precision": precision}
    one = tiny.create(strategy, **fields)
    several = tiny.create(strategy, steps_per_program=4, **fields)
    iterators = [iter(tiny.batches(strategy)) for _ in range(2)]
    for first, number in ((0, 7), (7, 1), (8, 4)):  # 4 and 3 steps; 1; 4.
        done, _, sums = one.run(iterators[0], first, number)
        again, wants_stop, same = several.run(iterators[1], first, number)
        assert (again, wants_stop) == (done, 0.0) == (number, 0.0)
        for name, value in sums.items():
            assert same[name] == pytest.approx(value, rel=1e-5)
    difference = tiny.largest_difference(one.weights(), several.weights())
    assert difference < tolerance
    # It stops behind a program.
    several.flag.assign(1.0)
    assert several.run(iterators[1], 12, 9)[:2] == (4, 1.0)


@pytest.mark.parametrize(("replicas", "jit"), [(2, True), (1, False)])
def test_several_steps_a_program_need_xla_and_one_replica(replicas, jit):
    with pytest.raises(ValueError, match="steps_per_program=4 needs XLA and"):
        tiny.create(tiny.mirrored(replicas), jit=jit, steps_per_program=4)


def test_number_of_steps_and_new_iterators_trace_nothing_anew():
    model = tiny.create(tiny.mirrored(2))
    for _ in range(2):
        iterator = iter(tiny.batches(model.strategy))
        model.run(iterator, 0, 1)
        model.run(iterator, 1, 2)
    assert model.call.experimental_get_tracing_count() == 1


@functools.cache
def _grad(accumulation_steps, *, seen):
    """The gradients of the global batch 3, as the step sums them."""
    model = tiny.create(tiny.mirrored(1), accumulation_steps=accumulation_steps)
    batch = {k: tf.constant(v) for k, v in tiny.batch_of(3).items()}
    compute = tf.function(model.step.create_forward_backward())
    gradients, sums = compute(
        batch, tf.constant(3, tf.int64), tf.constant(seen, tf.int64)
    )
    return [g.numpy() for g in gradients], float(sums["loss"])


@pytest.mark.parametrize("parts", [2, 8])
def test_gradients_do_not_depend_on_accumulation(parts):
    whole, loss = _grad(1, seen=0)
    cut, cut_loss = _grad(parts, seen=0)
    assert loss == pytest.approx(cut_loss, rel=1e-6)
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_dropout_follows_the_row_number():
    assert _grad(1, seen=0)[1] != _grad(1, seen=8)[1]


def test_no_prediction_at_all_changes_nothing():
    model = tiny.create(
        tiny.mirrored(2),
        weight_decay=0.0,
        change=lambda sums: {
            name: value * (0.0 if name in ("loss", "weight") else 1.0)
            for name, value in sums.items()
        },
    )
    before = model.weights()
    done, _, sums = model.run(iter(tiny.batches(model.strategy)), 0, 2)
    assert (done, sums["weight"], sums["loss"]) == (2, 0.0, 0.0)
    assert tiny.largest_difference(before, model.weights()) == 0.0


def test_gradient_that_is_not_finite_shows_in_the_loss():
    model = tiny.create(
        tiny.mirrored(2),
        change=lambda sums: {
            **sums,
            # Slope infinite at 0, value finite.
            "loss": sums["loss"] + tf.sqrt(sums["loss"] * 0.0),
        },
    )
    _, _, sums = model.run(iter(tiny.batches(model.strategy)), 0, 1)
    assert np.isnan(sums["loss"])
    assert np.isfinite(sums["weight"])


@pytest.mark.parametrize(
    ("precision", "replicas"), [("float32", 2), ("float16", 2), ("float16", 1)]
)
def test_clips_after_the_reduction(precision, replicas):
    model = tiny.create(
        tiny.mirrored(replicas), precision=precision, clip_norm=0.01
    )
    if precision == "float16":
        model.optimizer.dynamic_scale.assign(2.0**5)  # Nothing overflows.
    model.run(iter(tiny.batches(model.strategy)), 0, 1)
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    # Adam's first momentum is 0.1 of the gradient that it was given.
    given = [m.numpy() / 0.1 for m in inner._momentums]
    norm = np.sqrt(sum(np.square(g).sum() for g in given))
    assert norm == pytest.approx(0.01, rel=1e-4)


def _number(variable):
    return keras.ops.convert_to_numpy(variable).item()


def test_float16_overflow_skips_the_update_and_goes_on():
    model = tiny.create(tiny.mirrored(2), precision="float16")
    model.optimizer.dynamic_scale.assign(2.0**40)
    before = model.weights()
    iterator = iter(tiny.batches(model.strategy))
    _, _, sums = model.run(iterator, 0, 1)
    assert np.isfinite(sums["loss"])
    assert tiny.largest_difference(before, model.weights()) == 0.0
    assert _number(model.optimizer.dynamic_scale) == 2.0**39
    assert _number(model.optimizer.iterations) == 0
    done, _, sums = model.run(iterator, 1, 40)
    assert done == 40
    assert np.isfinite(sums["loss"])
    assert _number(model.optimizer.iterations) > 10
    assert 0 < tiny.largest_difference(before, model.weights()) < 1.0


def test_bfloat16_is_close_to_float32(reference):
    rough = tiny.create(tiny.mirrored(1), precision="bfloat16")
    losses = rough.losses(NUM_STEPS)
    assert 0 < tiny.largest_relative(losses, reference[0]) < 2e-2


def test_stop_ends_a_call_after_the_step_that_sees_it():
    model = tiny.create(tiny.mirrored(2))
    model.flag.assign(1.0)
    done, wants_stop, sums = model.run(
        iter(tiny.batches(model.strategy)), 0, 50
    )
    assert (done, wants_stop) == (1, 2.0)  # Both replicas of this worker.
    assert sums["weight"] == sum(tiny.COUNTS)


def _functions(call):
    """Of a graph: {compiled or not: [(operation, node name), ...]}."""
    graph = call.graph.as_graph_def()
    library = {f.signature.name: f for f in graph.library.function}
    nodes = {True: [], False: []}

    def visit(these, compiled):
        for node in these:
            nodes[compiled].append((node.op, node.name))
            names = [
                value.func.name
                for value in node.attr.values()
                if value.HasField("func")
            ]
            for name in names:
                function = library[name]
                must = function.attr["_XlaMustCompile"].b
                must |= node.attr["_XlaMustCompile"].b
                visit(function.node_def, compiled or must)

    visit(graph.node, False)
    return nodes


@pytest.mark.parametrize(("jit", "accumulation_steps"), [(False, 1), (True, 2)])
def test_products_are_inside_xla_exactly_when_asked(jit, accumulation_steps):
    model = tiny.create(
        tiny.mirrored(2), jit=jit, accumulation_steps=accumulation_steps
    )
    concrete = model.call.get_concrete_function(
        iter(tiny.batches(model.strategy)),
        tf.constant(0, tf.int64),
        tf.constant(1),
    )
    nodes = _functions(concrete)
    products = ("MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")
    parts = ("attention", "vocabulary", "intermediate")
    found = {
        compiled: {
            part
            for op, name in nodes[compiled]
            for part in parts
            if op in products and part in name
        }
        for compiled in (True, False)
    }
    assert found == {jit: set(parts), not jit: set()}
    # The update and the reduction stay outside.
    assert not [op for op, _ in nodes[True] if "ApplyAdam" in op]
    assert [op for op, _ in nodes[False] if op == "ResourceApplyAdam"]


@pytest.mark.parametrize("jit", [False, True])
def test_evaluation_adds_up_over_replicas(jit):
    strategy = tiny.mirrored(2)
    model = tiny.create(strategy).model

    def sums_of(batch):
        return objective.masked_lm_by_kind(
            model.predictions(batch), batch, mask_id=tiny.MASK_ID
        )

    call = step_lib.create_evaluation_call(strategy, sums_of, jit=jit)
    whole = {k: tf.constant(v) for k, v in tiny.batch_of(0).items()}
    expected = sums_of(whole)
    for _ in range(2):
        sums = call(iter(tiny.batches(strategy)))
        assert sums.keys() == expected.keys()
        for name, value in sums.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5)
    assert call.experimental_get_tracing_count() == 1


def test_two_workers_are_one_process_and_stop_together(tmp_path):
    num_steps = 6
    workers = tiny.start_workers(tmp_path, num_steps=num_steps)
    try:
        reference = tiny.create(tiny.mirrored(1))
        losses, weights = reference.losses(num_steps), reference.weights()
        ends = tiny.end_workers(workers, signal.SIGTERM)
    finally:
        for process in workers:
            process.kill()
    for index in range(2):
        its_losses, its_weights = tiny.read_worker(tmp_path, index)
        assert tiny.largest_relative(its_losses, losses) < 1e-5
        assert tiny.largest_difference(its_weights, weights) < 1e-5
    assert [end["chief"] for end in ends] == [True, False]
    assert [end["signal"] for end in ends] == [0, signal.SIGTERM]
    assert ends[0]["done"] == ends[1]["done"]
    assert 0 < ends[0]["done"] < 200_000
    for end in ends:
        assert 0 < end["waiting"] < 1
