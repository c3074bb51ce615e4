"""Tests of configs/outputs.py: bad values die with their names."""

import pytest

from configs import schema

# Field and value -> a part of the message.
BAD = [
    ("export.max_masks", 0, "at least 1"),
    ("export.top_k", 0, "at least 1"),
    ("predict.batch_size", 0, "at least 1"),
    ("evaluation.every_steps", -1, "at least 0"),
    ("evaluation.top_k", 0, "at least 1"),
    ("checkpoint.every_steps", 0, "at least 1"),
    ("checkpoint.keep_last", 0, "at least 1"),
    ("inspect.step", -1, "at least 0"),
    ("inspect.num_steps", 0, "at least 1"),
    ("inspect.num_rows", -1, "at least 0"),
    ("benchmark.what", "all", "choose one of .*input"),
    ("benchmark.num_rounds", 2, "at least 3"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_a_bad_value_dies_with_its_name(field, value, message):
    config = schema.defaults()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message) as error:
        schema.Config.from_config_dict(config)
    assert field in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["input", "serving"])
def test_what_has_no_reference_is_refused_with_one(what):
    config = schema.defaults()
    config.update_from_flattened_dict({"benchmark.what": what})
    schema.Config.from_config_dict(config)
    config.benchmark.reference = True
    with pytest.raises(ValueError, match=f"but it is {what}"):
        schema.Config.from_config_dict(config)
