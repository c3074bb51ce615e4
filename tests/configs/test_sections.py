"""Tests of the sections of a config: bad values die with their names."""

import math

import pytest

from configs import schema


def build(changes):
    """The config that differs from the defaults in dotted fields."""
    config = schema.defaults()
    config.update_from_flattened_dict(changes)
    return schema.Config.from_config_dict(config)


# Field and value -> a part of the message.
BAD = [
    ("data.source", "web", "sample, tfds, text, folders, csv, jsonl"),
    ("data.source", "text", "needs data.path"),
    ("data.source", "tfds", "needs data.name"),
    ("data.path", "a.txt", "not read by data.source=sample.*source=text"),
    ("data.document", "page", "line, file"),
    ("data.packing", "full", "fill, document"),
    ("data.sequence_length", 7, "at least 8"),
    ("data.num_processes", -1, "at least 0"),
    ("data.validation_path", "a.txt", "not read by data.source=sample"),
    ("data.group_field", "author", "not read by data.source=sample"),
    ("data.separator", ";", "not read by data.source=sample.*source=csv"),
    ("data.columns", ("text",), "not read by data.source=sample.*source=csv"),
    ("data.label_names", ("no", "yes"), "csv or jsonl or parquet"),
    ("data.test_label_field", "l", "not read by data.source=sample"),
    ("data.source", "folders", "needs data.path, a folder with a folder"),
    ("data.validation_rate", 0.0, "exclusive"),
    ("tokenizer.kind", "byte", "unicode_word, word, wordpiece"),
    ("tokenizer.vocabulary_size", 15, "at least 16"),
    ("tokenizer.vocabulary_size", 2**31, "at most 2147483647"),
    ("tokenizer.max_documents", -1, "at least 0"),
    ("masking.policy", "word", "token, whole_word, span"),
    ("masking.select_rate", math.nan, "between 0 and 1"),
    ("masking.select_rate", 0.0, "nothing to predict"),
    ("masking.final_select_rate", -0.5, "between 0 and 1"),
    ("masking.final_select_rate", 0.1, "decay_steps"),
    ("masking.mask_rate", 0.95, "must not exceed 1"),
    ("model.num_layers", 0, "at least 1"),
    ("model.num_heads", 3, "multiple of"),
    ("model.activation", "swish", "relu, gelu, gelu_tanh"),
    ("model.normalization", "none", "pre, post"),
    ("model.dropout", 1.0, "below 1"),
    ("model.attention_dropout", -0.1, "between 0 and 1"),
    ("model.layer_norm_epsilon", 0.0, "above 0"),
    ("model.initializer_range", -0.1, "at least 0"),
    ("optimizer.learning_rate", math.nan, "above 0"),
    ("optimizer.schedule", "step", "linear, cosine, constant"),
    ("optimizer.warmup_steps", -1, "at least 0"),
    ("optimizer.weight_decay", math.inf, "at least 0"),
    ("optimizer.clip_norm", -1.0, "at least 0"),
    ("optimizer.final_rate", 1.1, "between 0 and 1"),
    ("optimizer.beta_2", 1.1, "between 0 and 1"),
    ("train.global_batch_size", 0, "at least 1"),
    ("train.accumulation_steps", 0, "at least 1"),
    ("train.num_steps", -1, "at least 0"),
    ("train.precision", "fp16", "auto, float32, bfloat16, float16"),
    ("train.jit", "yes", "auto, on, off"),
    ("model.positions", "absolute", "learned, rotary"),
    ("finetune.class_weights", "even", "none, balanced, or a weight"),
    ("finetune.class_weights", "", "none, balanced, or a weight"),
    ("finetune.class_weights", "a:1,b", "none, balanced, or a weight"),
    ("finetune.class_weights", "a:1,b:0", "weight of 'b', *=0.0 .*above 0"),
    ("finetune.class_weights", "a:-1", "above 0"),
    ("finetune.min_precision", 1.0, "below 1"),
    ("finetune.seed", -1, "between 0 and 2147483647"),
    ("finetune.pieces_per_row", -1, "at least 0"),
    ("finetune.weight_decay", -0.1, "at least 0"),
    ("finetune.packing", "full", "fill, document"),
    ("finetune.pooling", "sum", "max, mean, mean_max, attention"),
    ("finetune.schedule", "step", "linear, cosine, constant"),
    ("finetune.learning_rate", 0.0, "above 0"),
    ("finetune.layer_decay", 1.1, "between 0 and 1"),
    ("finetune.dropout", 1.0, "below 1"),
    ("finetune.average_decay", 1.0, "below 1"),
    ("train.profile_steps", "5:5", "two steps"),
    ("export.max_masks", 0, "at least 1"),
    ("predict.batch_size", 0, "at least 1"),
    ("evaluation.every_steps", -1, "at least 0"),
    ("checkpoint.every_steps", 0, "at least 1"),
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
    ("field", "value", "message"),
    [
        ("separator", ";;", "must be one character"),
        ("separator", '"', "must be one character"),
        ("columns", ("body", "label"), "that of data.text_field='text' among"),
        ("columns", ("text", "text"), "name every column once"),
        ("test_text_field", "body", "fields of data.test_path, which is miss"),
    ],
)
def test_a_bad_way_to_read_csv_dies_with_its_name(field, value, message):
    csv = {"data.source": "csv", "data.path": "a.csv"}
    with pytest.raises(ValueError, match=message) as error:
        build({**csv, f"data.{field}": value})
    assert f"data.{field}" in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"data.source": "tfds", "data.name": "imdb_reviews"},
        {"data.sequence_length": 8},
        {"tokenizer.vocabulary_size": 2**31 - 1},
        {"masking.mask_rate": 1.0, "masking.random_rate": 0.0},
        # In floating point they add up to more than 1.
        {"masking.mask_rate": 0.7, "masking.random_rate": 0.3},
        {"masking.final_select_rate": 0.1, "masking.decay_steps": 1},
        {"model.dropout": 0.0, "model.initializer_range": 0.0},
        {"optimizer.clip_norm": 0.0, "optimizer.final_rate": 1.0},
    ],
)
def test_a_value_at_the_edge_is_fine(changes):
    values = build(changes).to_dict()
    for field, value in changes.items():
        section, _, name = field.rpartition(".")
        assert (values[section] if section else values)[name] == value


def test_rotary_needs_pairs():
    with pytest.raises(ValueError, match="hidden_size=6 .*must be even"):
        build(
            {
                "model.positions": "rotary",
                "model.hidden_size": 6,
                "model.num_heads": 2,
            }
        )


@pytest.mark.parametrize(
    ("text", "steps"), [("", (0, 0)), ("0:1", (0, 1)), ("20:100", (20, 100))]
)
def test_profiled_steps(text, steps):
    config = build({"train.profile_steps": text})
    assert config.train.profiled == steps


def test_the_rule_of_the_keras_example_is_lower_case():
    build({"tokenizer.lowercase": False})
    with pytest.raises(ValueError, match="kind=word.*unicode_word or wordp"):
        build({"tokenizer.lowercase": False, "tokenizer.kind": "word"})


@pytest.mark.parametrize("what", ["input", "serving"])
def test_what_has_no_reference_is_refused_with_one(what):
    build({"benchmark.what": what})
    with pytest.raises(ValueError, match=f"what=step, but it is {what}"):
        build({"benchmark.what": what, "benchmark.reference": True})


def test_a_label_with_a_weight_may_hold_commas_and_colons():
    config = build({"finetune.class_weights": "yes, please:5, no: 2:.5"})
    weights = config.finetune.named_class_weights()
    assert weights == {"yes, please": 5.0, "no: 2": 0.5}
