"""What is a BERT, the table of its variables, and the folders it goes to."""

import numpy as np
import pytest
import tensorflow as tf

from configs import bert_base, bert_small, schema
from trainer import modeling
from trainer.modeling import interchange
from trainer.modeling.interchange import bert, why_not_keras_hub

SHAPE = {
    "num_layers": 2,
    "hidden_size": 12,
    "num_heads": 3,
    "intermediate_size": 16,
    **bert.SHAPE,
}


@pytest.mark.parametrize("module", [bert_small, bert_base])
def test_the_bert_configs_are_bert(module):
    config = schema.Config.from_config_dict(module.get_config())
    assert bert.why_not_bert(config.model) == ""
    assert why_not_keras_hub(config.model) == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("normalization", "pre"),
        ("embedding_norm", False),
        ("token_types", False),
        ("tie_embeddings", False),
        ("head_transform", False),
        ("attend_padding", True),
        ("positions", "rotary"),
    ],
)
def test_every_field_that_does_not_map_is_named(field, value):
    two = schema.ModelConfig(**{**SHAPE, "activation": "relu", field: value})
    reason = bert.why_not_bert(two)
    assert reason.startswith(f"model.{field}={value} (BERT:")
    assert "model.activation=relu" in reason


def test_padding_becomes_the_first_token(create, vocabulary, tmp_path):
    model, other = create(), create(seed=1)
    ids = np.array([[4, 5, 6, 2, 8, 1]])
    vocabulary[0], vocabulary[3] = vocabulary[3], vocabulary[0]
    interchange.write_huggingface(tmp_path, model, vocabulary)
    initial = interchange.read_bert(tmp_path)
    assert initial.vocabulary[0] == "[PAD]"
    assert initial.vocabulary[3] == vocabulary[0]
    assert initial.vocabulary[4:] == vocabulary[4:]
    initial.read_weights().assign(other.variables)
    batch = {"mask_positions": tf.constant([[0, 3]])}
    before = model({**modeling.features(ids, pad_id=99), **batch})
    moved = [[initial.vocabulary.index(vocabulary[i]) for i in ids[0]]]
    after = other({**modeling.features(moved, pad_id=99), **batch})
    order = [initial.vocabulary.index(token) for token in vocabulary]
    np.testing.assert_array_equal(before, tf.gather(after, order, axis=-1))


def test_the_table_has_every_variable_of_the_model(create):
    model = create()
    table = bert.variables(bert.sizes_of(model.encoder))
    assert {row.path: row.shape for row in table} == {
        v.path: tuple(v.shape) for v in model.variables
    }
    for names in ([r.path for r in table], [r.huggingface for r in table]):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokens: tokens.remove("[CLS]"), r"lacks \[CLS\]"),
        (lambda tokens: tokens.append("the"), "twice"),
        (lambda tokens: tokens.append("more"), "holds 17 tokens.* has 16 rows"),
    ],
)
def test_a_bad_vocabulary_is_refused(
    create, vocabulary, tmp_path, change, message
):
    change(vocabulary)
    interchange.write_huggingface(tmp_path, create(), vocabulary)
    with pytest.raises(ValueError, match=message):
        interchange.read_bert(tmp_path)


@pytest.mark.parametrize("lowercase", [True, False])
def test_every_folder_that_can_hold_the_model(
    create, vocabulary, tmp_path, lowercase
):
    model = create()
    reasons = interchange.write_folders(
        tmp_path, model, vocabulary, kind="wordpiece", lowercase=lowercase
    )
    assert reasons == {"huggingface": "", "keras_hub": ""}
    for name in reasons:
        initial = interchange.read_bert(tmp_path / name)
        assert initial.model_config == model.encoder.model_config
        assert initial.vocabulary == vocabulary
        assert initial.lowercase == lowercase


@pytest.mark.parametrize(
    ("fields", "kind", "written", "reason"),
    [
        ({"activation": "gelu"}, "wordpiece", ["huggingface"], ".activation=g"),
        ({"normalization": "pre"}, "wordpiece", [], "normalization=pre"),
        ({}, "word", [], "tokenizer.kind=word (BERT: wordpiece)"),
        ({"normalization": "pre"}, "word", [], "wordpiece), model.normal"),
    ],
)
def test_the_others_are_left_out_with_a_reason(
    create, vocabulary, tmp_path, fields, kind, written, reason
):
    reasons = interchange.write_folders(
        tmp_path, create(**fields), vocabulary, kind=kind
    )
    assert [path.name for path in tmp_path.iterdir()] == written
    assert [name for name, why in reasons.items() if not why] == written
    assert reason in reasons["keras_hub"]
