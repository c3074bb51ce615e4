"""Labelled text to rows: the roles of pretraining, classes, errors."""

import itertools

import pytest

from input_pipeline import (
    labelled_rows,
    manifest,
    preparation,
    roles,
    sources,
    survey,
)
from input_pipeline import tokenizer as tokenizer_lib
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


def test_roles_are_those_of_pretraining(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(300))
    config = tiny.labelled_config(tmp_path)
    prepared = _open(config)
    pretraining = manifest.open_prepared(preparation.prepare(config))
    for role in ("train", "validation"):
        rows = prepared.roles[role].num_documents
        assert rows == pretraining.roles[role].num_documents > 0
    assert prepared.labels == ("no", "yes")
    report = prepared.report["train"]
    assert sum(report["labels"].values()) == report["documents"]


def test_the_second_time_nothing_is_done(tmp_path, monkeypatch):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(100))
    first = preparation.prepare_labelled(
        tiny.labelled_config(tmp_path), tiny.TOKENIZER
    )
    monkeypatch.setattr(preparation, "_write", None)
    assert (
        preparation.prepare_labelled(
            tiny.labelled_config(tmp_path), tiny.TOKENIZER
        )
        == first
    )


def test_the_vocabulary_and_the_layout_are_part_of_the_name(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(100))
    other = tokenizer_lib.WordTokenizer(["", "[UNK]", "film", "[mask]"])
    rule = tokenizer_lib.UnicodeWordTokenizer(tiny.TOKENIZER.vocabulary)
    names = {
        preparation.prepare_labelled(tiny.labelled_config(tmp_path), rule),
        preparation.prepare_labelled(
            tiny.labelled_config(tmp_path), tiny.TOKENIZER
        ),
        preparation.prepare_labelled(tiny.labelled_config(tmp_path), other),
        preparation.prepare_labelled(
            tiny.labelled_config(tmp_path, **{"finetune.pieces_per_row": 2}),
            tiny.TOKENIZER,
        ),
        preparation.prepare_labelled(
            tiny.labelled_config(tmp_path, **{"finetune.packing": "document"}),
            tiny.TOKENIZER,
        ),
    }
    assert len(names) == 5


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((10, 9, -1), ("-1", "9", "10")),
        (("b", "a", "C"), ("C", "a", "b")),
        ((2, "a", 10), ("2", "10", "a")),
    ],
)
def test_classes_have_an_order(tmp_path, labels, expected):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(150, labels=labels))
    assert _open(tiny.labelled_config(tmp_path)).labels == expected


def test_the_order_of_classes_is_not_that_of_the_file(tmp_path):
    data = tiny.labelled_config(tmp_path).data
    names = ["nan", "inf", "-inf", "10", "9", "1e999", "b", "NaN"]
    expected = ["9", "10", "-inf", "1e999", "NaN", "b", "inf", "nan"]
    for order in itertools.permutations(names, 6):
        known = _survey({"train": dict.fromkeys(order, 1)})
        assert known.classes(data, largest=9) == [
            name for name in expected if name in order
        ]


def test_one_class_cannot_be_learned(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(50, labels=("a",)))
    with pytest.raises(ValueError, match=r"one value .*\('a'\)"):
        _open(tiny.labelled_config(tmp_path))
    assert not list((tmp_path / "prepared").glob("*.tmp-*/manifest.json"))


def test_documents_without_a_label_are_for_pretraining_alone(tmp_path):
    records = tiny.reviews(300, labels=("", "a", "b"))
    tiny.write(tmp_path / "reviews.jsonl", records)
    config = tiny.labelled_config(tmp_path)
    prepared = _open(config)
    assert prepared.labels == ("a", "b")
    rows = manifest.open_prepared(preparation.prepare(config))
    assert rows.report["documents_without_label"] == 100
    used = {n: role.num_documents for n, role in prepared.roles.items()}
    assert rows.roles["train"].num_documents == used["train"] + 100
    assert rows.roles["validation"].num_documents == used["validation"] > 0
    in_test = rows.report["documents_reserved_for_test"]
    assert sum(used.values()) + in_test == 200


@pytest.mark.parametrize("role", ["validation", "test"])
def test_a_class_that_no_training_document_has(role, tmp_path):
    config = tiny.labelled_config(tmp_path)
    known = _survey(
        {
            "train": {"a": 3, "b": 2},
            "validation": {"a": 1},
            "test": {"b": 1},
        }
    )
    assert known.classes(config.data, largest=9) == ["a", "b"]
    with pytest.raises(ValueError, match="at most 1 classes"):
        known.classes(config.data, largest=1)
    known.labels[role]["c"] = 1
    with pytest.raises(ValueError, match="'c' occurs in no training document"):
        known.classes(config.data, largest=9)


def test_labels_that_only_the_validation_file_has(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(50))
    path = tiny.write(tmp_path / "v.jsonl", [{"text": "a", "label": "maybe"}])
    config = tiny.labelled_config(
        tmp_path, **{"data.validation_path": str(path)}
    )
    with pytest.raises(
        ValueError, match="'maybe' occurs in no .*v.jsonl.*are 'no', 'yes'"
    ):
        _open(config)


def test_a_class_with_one_document_can_be_learned(tmp_path):
    """Wherever the hash would put it."""
    for number in range(12):
        records = [*tiny.reviews(40), {"text": f"x {number}", "label": "rare"}]
        tiny.write(tmp_path / "reviews.jsonl", records)
        prepared = _open(tiny.labelled_config(tmp_path))
        report = prepared.report["train"]
        assert report["labels"]["rare"] == 1
        if report["labels_kept"]:
            assert report["labels_kept"] == ["rare"]
            break
    else:
        pytest.fail("the hash put it into training every time")


def test_plain_text_has_no_labels(tmp_path):
    (tmp_path / "a.txt").write_text("words\n")
    config = tiny.labelled_config(
        tmp_path,
        **{"data.source": "text", "data.path": str(tmp_path / "a.txt")},
    )
    with pytest.raises(
        preparation.NoLabelsError, match="data.source=text has no labels"
    ):
        preparation.prepare_labelled(config, tiny.TOKENIZER)


def test_records_without_labels(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(50, labels=("",)))
    with pytest.raises(
        preparation.NoLabelsError, match="no document has a label"
    ):
        _open(tiny.labelled_config(tmp_path))


def test_width_of_the_rows(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(100))
    config = tiny.labelled_config(tmp_path)
    prepared = _open(config)
    number = prepared.documents_per_row
    assert 2 <= number <= 16
    layout = labelled_rows.Layout.of(config, number)
    assert prepared.row_width == layout.width == 32 + (number + 4) + number


def test_documents_without_a_label_are_rows_of_their_own(tmp_path):
    records = tiny.reviews(300, labels=("", "a", "b"))
    tiny.write(tmp_path / "reviews.jsonl", records)
    config = tiny.labelled_config(tmp_path)
    before = _open(config)
    prepared = manifest.open_prepared(
        preparation.prepare_unlabelled(config, before)
    )
    assert set(prepared.roles) == {preparation.UNLABELLED}
    assert prepared.roles[preparation.UNLABELLED].num_documents == 100
    for name in ("row_width", "documents_per_row", "dtype", "rows_per_block"):
        assert getattr(prepared, name) == getattr(before, name)
    # What is held out is not answered where it stands once more.
    more = tiny.write(tmp_path / "more.jsonl", tiny.reviews(400))
    config = tiny.labelled_config(
        tmp_path, **{"data.unlabeled_path": str(more)}
    )
    prepared = manifest.open_prepared(
        preparation.prepare_unlabelled(config, _open(config))
    )
    used = survey.of(config.data, sources.list_units(config.data)).labels
    held_out = sum(sum(used[role].values()) for role in ("validation", "test"))
    assert held_out > 0
    assert prepared.roles[preparation.UNLABELLED].num_documents == (
        100 + 400 - held_out
    )
