"""The layers of every config learn; planted faults: test_doctor.py."""

import dataclasses

import pytest

from configs import overrides
from trainer.commands.checkups import check, small_model
from trainer.training import strategies


@pytest.mark.parametrize("name", ["imdb_notebook", "bert_small"])
def test_a_small_model_of_every_shape_is_well(name, tmp_path):
    config = overrides.load_config(
        f"configs/{name}.py",
        changes={
            "config.train.jit": "off",
            "config.tokenizer.kind": "word",  # Learned sooner.
        },
    )
    strategy = strategies.create("one_device")
    case = check.Case(config, "", None, str(tmp_path), strategy=strategy)
    assert "nats at step 0" in small_model.initial_loss(case)
    assert "one batch" in small_model.one_batch(case)


def test_a_batch_has_a_row_for_every_replica(tiny, tmp_path):
    case = check.Case(tiny(), "", None, str(tmp_path))
    config, prepared = small_model._small(case, rows_per_step=12)
    assert config.train.global_batch_size == 12
    assert config.model.num_layers == 1
    # The layers are those of the config.
    kept = dataclasses.asdict(tiny().model)
    for name, value in dataclasses.asdict(config.model).items():
        assert name.endswith(("_size", "_heads")) or value == kept[name]
    assert prepared.sequence_length == 16
