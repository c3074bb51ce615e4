"""The pure step: the same numbers, with values in the place of variables."""

import numpy as np
import pytest
import tensorflow as tf

from configs import overrides
from proofs.tpu import lower

CHANGES = {
    "config.data.sequence_length": "8",
    "config.tokenizer.vocabulary_size": "50",
    "config.model.num_layers": "1",
    "config.model.hidden_size": "8",
    "config.model.num_heads": "2",
    "config.model.intermediate_size": "12",
    "config.train.global_batch_size": "4",
    "config.finetune.global_batch_size": "4",
    "config.finetune.average_decay": "0.9",
}


def _batch(specs, random):
    return {
        name: tf.constant(
            random.integers(0, 2, spec.shape), spec.dtype, name=name
        )
        for name, spec in specs.items()
    }


@pytest.mark.parametrize(("stage", "parts"), [("pretrain", 2), ("finetune", 1)])
def test_pure_step_computes_the_step(stage, parts, monkeypatch):
    monkeypatch.setattr(
        tf.raw_ops, "CrossReplicaSum", lambda input, group_assignment: input
    )
    config = overrides.load_config(
        "configs/sample.py",
        changes={**CHANGES, "config.train.accumulation_steps": str(parts)},
    )
    task = lower.create_task(config, stage, tf.distribute.get_strategy())
    step = task.create_step()
    variables = task.model.variables + task.optimizer.variables
    batch = _batch(lower.batch_spec(config, stage, 4), np.random.default_rng(3))
    number = first_row = tf.constant(2, tf.int64)

    before = [tf.constant(v.numpy()) for v in variables]
    pure = tf.function(lower.pure_step(step, variables, 1), autograph=False)
    after, sums = pure(before, batch, number, first_row)

    gradients, expected = step.accumulate(batch, number, first_row)
    expected = step.update(gradients, expected)
    for variable, old, new in zip(variables, before, after, strict=True):
        np.testing.assert_allclose(new, variable.numpy(), atol=1e-6)
        # Nothing comes of a key's bias, so nothing changes it.
        if "key/bias" not in variable.path.replace("_", "/"):
            assert not np.array_equal(old, new), variable.path
    for name, value in zip(sorted(expected), sums, strict=True):
        np.testing.assert_allclose(value, expected[name], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "stage", "rows", "gigaflops"),
    [
        ("imdb", "pretrain", 8, 14),
        ("imdb", "finetune", 2, 6),
        ("bert_base", "pretrain", 64, 19_283),
    ],
)
def test_the_flops_are_those_of_the_document(name, stage, rows, gigaflops):
    config = overrides.load_config(f"configs/{name}.py", changes={})
    found = lower.model_flops(config, stage, rows)
    assert round(found / 1e9) == gigaflops
