"""What the workers of a cluster compare; whole stages: test_pretrain.py."""

import types

import keras
import pytest

from trainer.stages import stage
from trainer.training import strategies


@pytest.fixture(name="told")
def _told(monkeypatch):
    """The facts that this worker tells the others, in order."""
    told = []
    monkeypatch.setattr(
        stage.workers,
        "require_equal",
        lambda strategy, facts, *, remedy: told.append(facts),
    )
    monkeypatch.setattr(strategies, "has_workers", lambda strategy: True)
    return told


def test_where_they_begin_and_with_which_weights(told):
    variables = [keras.Variable(1.0), keras.Variable([2.0, 3.0])]
    task = types.SimpleNamespace(
        strategy=None,
        stage="pretrain",
        model=types.SimpleNamespace(variables=variables[:1]),
        optimizer=types.SimpleNamespace(variables=variables[1:]),
    )
    stage._require_same_start(task, 5)
    for variable in variables:
        variable.assign(variable + 1e-6)
        stage._require_same_start(task, 5)
    digests = [facts.pop("weights") for facts in told]
    assert told == [{"stage": "pretrain", "step": 5}] * 3
    assert len({*digests}) == 3
