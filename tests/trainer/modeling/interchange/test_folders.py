"""Tests of trainer/modeling/interchange/folders.py."""

import pytest

from trainer.modeling import interchange


def test_every_folder_that_can_hold_the_model(create, vocabulary, tmp_path):
    model = create()
    reasons = interchange.write_folders(
        tmp_path, model, vocabulary, kind="wordpiece"
    )
    assert reasons == {"huggingface": "", "keras_hub": ""}
    for name in reasons:
        initial = interchange.read_bert(tmp_path / name)
        assert initial.model_config == model.encoder.model_config
        assert initial.vocabulary == vocabulary


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


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="neither a KerasHub preset nor"):
        interchange.read_bert(tmp_path)
