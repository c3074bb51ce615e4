"""Tests of configs/schema.py."""

import json

import pytest

from configs import schema


def build(changes):
    """The config that differs from the defaults in dotted fields."""
    config = schema.defaults()
    config.update_from_flattened_dict(changes)
    return schema.Config.from_config_dict(config)


def test_defaults_are_the_default_config():
    assert build({}) == schema.Config()


@pytest.mark.parametrize(
    ("length", "rate", "expected"),
    [
        (20, 0.15, 3),  # 0.15 * 20 is a little more than 3 in floating point.
        (21, 0.15, 4),
        (256, 0.15, 39),
        (256, 1.0, 256),
        (8, 0.001, 1),
    ],
)
def test_num_predictions_rounds_up(length, rate, expected):
    config = build(
        {
            "data.sequence_length": length,
            "masking.select_rate": rate,
            "masking.evaluation_rate": 0.0,
        }
    )
    assert config.num_predictions == expected


def test_whole_words_have_room_to_vary():
    config = build({"data.sequence_length": 32, "masking.policy": "whole_word"})
    assert config.num_predictions == 7
    full = {"masking.policy": "whole_word", "masking.select_rate": 1.0}
    assert build({"data.sequence_length": 32} | full).num_predictions == 32


def test_num_predictions_follows_the_highest_rate():
    length = {"data.sequence_length": 100}
    falling = {"masking.select_rate": 0.3, "masking.final_select_rate": 0.2}
    rising = {"masking.select_rate": 0.2, "masking.final_select_rate": 0.4}
    steps = {"masking.decay_steps": 10}
    assert build(length | falling | steps).num_predictions == 30
    assert build(length | rising | steps).num_predictions == 40
    assert (
        build(length | {"masking.evaluation_rate": 0.5}).num_predictions == 50
    )


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_bad_seed_dies_with_its_name(seed):
    with pytest.raises(ValueError, match="^seed=.*between 0 and 2147483647"):
        build({"seed": seed})


@pytest.mark.parametrize("section", ["train", "finetune"])
def test_minutes_and_steps_exclude_each_other(section):
    with pytest.raises(
        ValueError,
        match=f"minutes=5 .*{section}.num_steps=9.*{section}.num_steps=0",
    ):
        build({"train.minutes": 5.0, f"{section}.num_steps": 9})


def test_a_config_survives_json():
    config = schema.Config(
        seed=7, evaluation=schema.EvaluationConfig(sentences=("a [MASK]", "b"))
    )
    values = json.loads(json.dumps(config.to_dict()))
    assert schema.Config.from_dict(values) == config
