"""Tests of configs/schema.py."""

import dataclasses
import json
import math
import subprocess
import sys
import typing

import pytest

from configs import schema

SECTIONS = {
    name: kind
    for name, kind in typing.get_type_hints(schema.Config).items()
    if dataclasses.is_dataclass(kind)
}


def build(changes):
    """The config that differs from the defaults in dotted fields."""
    config = schema.defaults()
    config.update_from_flattened_dict(changes)
    return schema.Config.from_config_dict(config)


def fields():
    for section, kind in [("", schema.Config), *SECTIONS.items()]:
        for field in dataclasses.fields(kind):
            if not dataclasses.is_dataclass(field.type):
                yield pytest.param(field, id=f"{section}.{field.name}")


@pytest.mark.parametrize("field", fields())
def test_field_can_be_set_on_the_command_line(field):
    kind = typing.get_origin(field.type) or field.type
    assert kind in (bool, int, float, str, tuple)
    assert type(field.default) is kind


@pytest.mark.parametrize("kind", [schema.Config, *SECTIONS.values()])
def test_config_is_frozen_and_named(kind):
    config = kind()
    name = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, getattr(config, name))
    with pytest.raises(TypeError, match="positional"):
        kind(getattr(config, name))


def test_defaults_are_the_default_config():
    assert build({}) == schema.Config()


def test_defaults_are_a_copy():
    schema.defaults().train.num_steps = 7
    assert schema.defaults().train.num_steps == 0


def test_changes_arrive():
    config = build({"seed": 3, "train.num_steps": 7, "model.dropout": 0.5})
    assert (config.seed, config.train.num_steps) == (3, 7)
    assert config.model.dropout == 0.5
    assert config.masking == schema.MaskingConfig()


def test_an_unknown_field_is_named():
    config = schema.defaults()
    config.train.num_step = 5
    with pytest.raises(ValueError, match="num_step in TrainConfig.*num_steps"):
        schema.Config.from_config_dict(config)


def test_to_dict_survives_json():
    values = schema.Config().to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["masking"]["select_rate"] == 0.15
    assert isinstance(values["evaluation"]["sentences"], list)


# Field and value -> a part of the message.
BAD = [
    ("seed", -1, "between 0 and 2147483647"),
    ("seed", 2**31, "between 0 and 2147483647"),
    ("data.source", "web", "sample, tfds, text, csv, jsonl"),
    ("data.source", "text", "needs data.path"),
    ("data.source", "csv", "needs data.path"),
    ("data.source", "jsonl", "needs data.path"),
    ("data.source", "tfds", "needs data.name"),
    ("data.document", "page", "line, file"),
    ("data.packing", "full", "fill, document"),
    ("data.validation_packing", "full", "fill, document"),
    ("data.sequence_length", 7, "at least 8"),
    ("data.num_processes", -1, "at least 0"),
    ("data.validation_rate", 0.0, "exclusive"),
    ("data.validation_rate", 1.0, "exclusive"),
    ("tokenizer.kind", "byte", "word, wordpiece"),
    ("tokenizer.vocabulary_size", 15, "at least 16"),
    ("tokenizer.vocabulary_size", 2**31, "at most 2147483647"),
    ("tokenizer.max_documents", -1, "at least 0"),
    ("masking.policy", "word", "token, whole_word, span"),
    ("masking.select_rate", 1.1, "between 0 and 1"),
    ("masking.select_rate", math.nan, "between 0 and 1"),
    ("masking.select_rate", 0.0, "nothing to predict"),
    ("masking.final_select_rate", -0.5, "between 0 and 1"),
    ("masking.final_select_rate", 0.1, "decay_steps"),
    ("masking.mask_rate", 0.95, "must not exceed 1"),
    ("masking.random_rate", -0.1, "between 0 and 1"),
    ("masking.evaluation_rate", 2.0, "between 0 and 1"),
    ("model.num_layers", 0, "at least 1"),
    ("model.hidden_size", 0, "at least 1"),
    ("model.num_heads", 0, "at least 1"),
    ("model.num_heads", 3, "multiple of"),
    ("model.intermediate_size", 0, "at least 1"),
    ("model.activation", "swish", "relu, gelu, gelu_tanh"),
    ("model.normalization", "none", "pre, post"),
    ("model.dropout", 1.0, "below 1"),
    ("model.attention_dropout", -0.1, "between 0 and 1"),
    ("model.layer_norm_epsilon", 0.0, "above 0"),
    ("model.initializer_range", -0.1, "at least 0"),
    ("optimizer.learning_rate", 0.0, "above 0"),
    ("optimizer.learning_rate", math.nan, "above 0"),
    ("optimizer.schedule", "step", "linear, cosine, constant"),
    ("optimizer.warmup_steps", -1, "at least 0"),
    ("optimizer.weight_decay", math.inf, "at least 0"),
    ("optimizer.clip_norm", -1.0, "at least 0"),
    ("optimizer.final_rate", 1.1, "between 0 and 1"),
    ("optimizer.beta_1", -0.1, "between 0 and 1"),
    ("optimizer.beta_2", 1.1, "between 0 and 1"),
    ("train.global_batch_size", 0, "at least 1"),
    ("train.num_epochs", 0, "at least 1"),
    ("train.accumulation_steps", 0, "at least 1"),
    ("train.steps_per_call", 0, "at least 1"),
    ("train.log_every", 0, "at least 1"),
    ("train.num_steps", -1, "at least 0"),
    ("train.steps_per_epoch", -1, "at least 0"),
    ("train.precision", "fp16", "auto, float32, bfloat16, float16"),
    ("train.jit", "yes", "auto, on, off"),
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
    with pytest.raises(ValueError, match=message) as error:
        build({field: value})
    assert field in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2**31 - 1},
        {"data.source": "text", "data.path": "reviews/*.txt"},
        {"data.source": "tfds", "data.name": "imdb_reviews"},
        {"data.sequence_length": 8},
        {"tokenizer.vocabulary_size": 16},
        {"tokenizer.vocabulary_size": 2**31 - 1},
        {"masking.select_rate": 1.0},
        {"masking.mask_rate": 1.0, "masking.random_rate": 0.0},
        # In floating point they add up to more than 1.
        {"masking.mask_rate": 0.7, "masking.random_rate": 0.3},
        {"masking.final_select_rate": 0.1, "masking.decay_steps": 1},
        {"model.num_layers": 1, "model.num_heads": 128},
        {"model.dropout": 0.0, "model.initializer_range": 0.0},
        {"optimizer.clip_norm": 0.0, "optimizer.final_rate": 1.0},
    ],
)
def test_a_value_at_the_edge_is_fine(changes):
    values = build(changes).to_dict()
    for field, value in changes.items():
        section, _, name = field.rpartition(".")
        assert (values[section] if section else values)[name] == value


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


def test_last_rate_is_constant_by_default():
    assert build({"masking.select_rate": 0.2}).masking.last_rate == 0.2


def test_schema_needs_no_tensorflow():
    program = (
        "import sys, configs.schema; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_config_survives_json():
    config = schema.Config(
        seed=7, evaluation=schema.EvaluationConfig(sentences=("a [MASK]", "b"))
    )
    values = json.loads(json.dumps(config.to_dict()))
    assert schema.Config.from_dict(values) == config
