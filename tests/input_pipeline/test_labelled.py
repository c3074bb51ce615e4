"""Labelled text to rows: classes and their order, refusals, self-training."""

import dataclasses
import itertools

import pytest

from input_pipeline import (
    labelled_rows,
    manifest,
    preparation,
    roles,
    survey,
)
from input_pipeline import tokenizer as tokenizer_lib
from input_pipeline.corpus import Corpus
from tests.input_pipeline import conftest as tiny


def _open(config):
    return manifest.open_prepared(
        preparation.prepare_labelled(config, tiny.TOKENIZER)
    )


def _survey(labels):
    return survey.Survey(
        roles=roles.Roles(0.2, 0.1),
        labels=labels,
        kept_labels=[],
        without_label=0,
    )


def test_vocabulary_and_layout_are_part_of_the_name(tmp_path, monkeypatch):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(100))
    other = tokenizer_lib.WordTokenizer(["", "[UNK]", "film", "[mask]"])
    rule = tokenizer_lib.UnicodeWordTokenizer(tiny.TOKENIZER.vocabulary)
    variants = [
        ({}, tiny.TOKENIZER),
        ({}, rule),
        ({}, other),
        ({"finetune.pieces_per_row": 2}, tiny.TOKENIZER),
        ({"finetune.packing": "document"}, tiny.TOKENIZER),
    ]

    def names():
        return [
            preparation.prepare_labelled(
                tiny.labelled_config(tmp_path, **changes), tokenizer
            )
            for changes, tokenizer in variants
        ]

    first = names()
    assert len({*first}) == 5
    # The second time, nothing is done.
    monkeypatch.setattr(preparation, "_write", None)
    assert names() == first
    prepared = manifest.open_prepared(first[0])
    number = prepared.documents_per_row
    assert 2 <= number <= 16
    layout = labelled_rows.Layout.of(tiny.labelled_config(tmp_path), number)
    assert prepared.row_width == layout.width == 32 + (number + 4) + number


def test_the_order_of_classes_is_not_that_of_the_file(tmp_path):
    data = tiny.labelled_config(tmp_path).data
    names = ["nan", "inf", "-inf", "10", "9", "1e999", "b", "NaN", "-1"]
    expected = ["-1", "9", "10", "-inf", "1e999", "NaN", "b", "inf", "nan"]
    for order in itertools.permutations(names, 5):
        known = _survey({"train": dict.fromkeys(order, 1)})
        assert known.classes(data, largest=9) == [
            name for name in expected if name in order
        ]


@pytest.mark.parametrize("role", ["validation", "test"])
def test_classes_that_cannot_be_learned_are_refused(role, tmp_path):
    data = tiny.labelled_config(tmp_path).data
    known = _survey(
        {
            "train": {"a": 3, "b": 2},
            "validation": {"a": 1},
            "test": {"b": 1},
        }
    )
    assert known.classes(data, largest=2) == ["a", "b"]
    with pytest.raises(ValueError, match="at most 1 classes"):
        known.classes(data, largest=1)
    known.labels[role]["c"] = 1
    data = dataclasses.replace(data, validation_path="v.jsonl")
    with pytest.raises(
        ValueError, match="'c' occurs in no training.*v.jsonl.*are 'a', 'b'"
    ):
        known.classes(data, largest=9)
    with pytest.raises(ValueError, match=r"one value .*\('a'\)"):
        _survey({"train": {"a": 3}}).classes(data, largest=9)


def test_a_class_with_one_document_can_be_learned(tmp_path):
    """Wherever the hash would put it."""
    for number in range(12):
        records = [*tiny.reviews(40), {"text": f"x {number}", "label": "rare"}]
        tiny.write(tmp_path / "reviews.jsonl", records)
        known = Corpus(tiny.labelled_config(tmp_path).data).survey
        assert known.labels["train"]["rare"] == 1
        if known.kept_labels:
            assert known.kept_labels == ["rare"]
            break
    else:
        pytest.fail("the hash put it into training every time")


def test_without_labels_nothing_can_be_classified(tmp_path):
    (tmp_path / "a.txt").write_text("words\n")
    config = tiny.labelled_config(
        tmp_path,
        **{"data.source": "text", "data.path": str(tmp_path / "a.txt")},
    )
    with pytest.raises(
        preparation.NoLabelsError, match="data.source=text has no labels"
    ):
        preparation.prepare_labelled(config, tiny.TOKENIZER)
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(50, labels=("",)))
    with pytest.raises(
        preparation.NoLabelsError, match="no document has a label"
    ):
        _open(tiny.labelled_config(tmp_path))


def test_documents_without_a_label_train_and_have_rows_of_their_own(tmp_path):
    records = tiny.reviews(300, labels=("", "a", "b"))
    tiny.write(tmp_path / "reviews.jsonl", records)
    config = tiny.labelled_config(tmp_path)
    labelled = _open(config)
    assert labelled.labels == ("a", "b")
    rows = manifest.open_prepared(preparation.prepare(config))
    assert rows.report["documents_without_label"] == 100
    used = {n: role.num_documents for n, role in labelled.roles.items()}
    assert rows.roles["train"].num_documents == used["train"] + 100
    assert rows.roles["validation"].num_documents == used["validation"] > 0
    in_test = rows.report["documents_reserved_for_test"]
    assert sum(used.values()) + in_test == 200
    prepared = manifest.open_prepared(
        preparation.prepare_unlabelled(config, labelled)
    )
    assert set(prepared.roles) == {preparation.UNLABELLED}
    assert prepared.roles[preparation.UNLABELLED].num_documents == 100
    for name in ("row_width", "documents_per_row", "dtype", "rows_per_block"):
        assert getattr(prepared, name) == getattr(labelled, name)
    # What is held out is not answered where it stands once more.
    more = tiny.write(tmp_path / "more.jsonl", tiny.reviews(400))
    config = tiny.labelled_config(
        tmp_path, **{"data.unlabeled_path": str(more)}
    )
    prepared = manifest.open_prepared(
        preparation.prepare_unlabelled(config, _open(config))
    )
    known = Corpus(config.data).survey.labels
    held_out = sum(sum(known[role].values()) for role in ("validation", "test"))
    assert held_out > 0
    assert prepared.roles[preparation.UNLABELLED].num_documents == (
        100 + 400 - held_out
    )
