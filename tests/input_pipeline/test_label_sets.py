"""Several labels a document, from the survey to the batches."""

import collections

import numpy as np
import pytest

from input_pipeline import (
    classification,
    label_sets,
    labelled_texts,
    manifest,
    preparation,
)
from input_pipeline.corpus import Corpus
from tests.input_pipeline import conftest as tiny


def _records(labels, number=240):
    return [
        {**record, "label": labels[i % len(labels)]}
        for i, record in enumerate(tiny.reviews(number))
    ]


def _open(config):
    return manifest.open_prepared(
        preparation.prepare_labelled(config, tiny.TOKENIZER)
    )


def test_what_is_a_set():
    for names in ([], ["a"], ["b", "a", "a"], ['"', "\u00e9"], ["[]"]):
        label = label_sets.joined(names)
        assert label_sets.is_one(label)
        assert label_sets.split(label) == tuple(sorted({*names}))
    for label in ("", "a", "[", "[1]", '["b", "a"]', '["a"] ', "[" * 10**5):
        assert not label_sets.is_one(label)
    assert label_sets.of_classes(["x", "y"], [[], [0, 1]]) == [
        "[]", '["x", "y"]'
    ]  # fmt: skip


def test_batches_have_the_classes_of_every_document(tmp_path):
    """And documents with no class at all, but none without a label."""
    labels = [["10", "9"], ["9"], [], None, ["b", "9", "10"]]
    tiny.write(tmp_path / "reviews.jsonl", _records(labels))
    config = tiny.labelled_config(tmp_path)
    corpus = Corpus(config.data)
    prepared = _open(config)
    assert prepared.labels == ("9", "10", "b")
    assert prepared.label_sets == ((), (0,), (0, 1), (0, 1, 2))
    assert prepared.stored_labels == [
        "[]", '["9"]', '["10", "9"]', '["10", "9", "b"]'
    ]  # fmt: skip
    train = prepared.report["train"]
    assert train["labels"]["9"] == train["labels"]["10"] + sum(
        corpus.survey.labels["train"][label] for label in ('["9"]',)
    )
    expected = collections.Counter(corpus.survey.labels["validation"])
    found = collections.Counter[str]()
    for batch in classification.validation_batches(prepared, config):
        assert batch["labels"].dtype == bool
        assert batch["labels"].shape == (*batch["label_weights"].shape, 3)
        for row in classification.documents_of(batch).labels:
            found[
                label_sets.joined(np.array(prepared.labels)[row].tolist())
            ] += 1
    assert found == expected and len(found) > 2
    texts = labelled_texts.read(config, corpus, prepared)
    every = [classification.documents(prepared, config, r).labels
             for r in ("train", "validation")]  # fmt: skip
    assert texts.documents.labels.dtype == bool
    np.testing.assert_array_equal(
        texts.documents.labels.sum(axis=0), np.concatenate(every).sum(axis=0)
    )


def test_without_validation_labels_keep_their_shape(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", _records([["a"], ["b"]], 12))
    config = tiny.labelled_config(tmp_path, **{"data.validation_rate": 1e-9})
    found = classification.documents(_open(config), config, "validation")
    assert found.labels.shape == (0, 2)


def test_a_rare_name_is_kept_in_training_but_no_rare_set(tmp_path):
    for number in range(40):
        rare = {"text": f"x {number}", "label": ["a", "b", "rare"]}
        also = {"text": f"y {number}", "label": ["a", "b"]}
        records = [*_records([["a"], ["b"]], 40), rare, also]
        tiny.write(tmp_path / "reviews.jsonl", records)
        config = tiny.labelled_config(tmp_path)
        known = Corpus(config.data).survey
        assert known.by_class("train")["rare"] == 1
        held_out = [known.labels[r].get('["a", "b"]') for r in known.labels]
        if known.kept_labels and held_out[1]:
            assert known.kept_labels == ["rare"]
            assert (0, 1) in _open(config).label_sets
            return
    pytest.fail("the hash put neither outside of training")


def test_labels_that_are_not_all_lists_are_refused(tmp_path):
    path = tmp_path / "reviews.jsonl"
    tiny.write(path, _records([["a"], ["b"], "c"]))
    message = (
        r"""a list of labels in .* \["a"\], and one label in .* 'c'; make"""
    )
    with pytest.raises(ValueError, match=message):
        _ = Corpus(tiny.labelled_config(tmp_path).data).survey
    # In the test file, too.
    tiny.write(path, _records([["a"], ["b"]]))
    tiny.write(tmp_path / "t.jsonl", [{"text": "t", "label": "a"}])
    config = tiny.labelled_config(
        tmp_path, **{"data.test_path": str(tmp_path / "t.jsonl")}
    )
    with pytest.raises(ValueError, match=message.replace("'c'", "'a'")):
        _ = Corpus(config.data).survey


def test_too_many_sets_for_a_slot_are_refused(tmp_path):
    tiny.write(
        tmp_path / "reviews.jsonl", _records([["a"], ["b"], ["a", "b"], []])
    )
    data = tiny.labelled_config(tmp_path).data
    known = Corpus(data).survey
    assert known.classes(data, largest=4) == ["a", "b"]
    with pytest.raises(ValueError, match="4 combinations .* at most 3"):
        known.classes(data, largest=3)
