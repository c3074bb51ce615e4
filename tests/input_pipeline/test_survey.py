"""What is known of all documents before one has a role: nothing leaks."""

import itertools
import json

import pytest

from input_pipeline import (
    cleaning,
    documents,
    held_out,
    manifest,
    preparation,
    reading,
    sources,
    survey,
)
from input_pipeline.corpus import Corpus
from tests.input_pipeline import conftest as tiny

SPELLINGS = (
    str.upper,
    lambda text: f"  {text.replace(' ', '  ')}!!! ",
    lambda text: f"\u201c{text}\u201d\u2026",
    lambda text: text.replace("f", "\uff46"),
)


def _roles(config):
    """Role, normalised text, label and raw text of every document."""
    units = sources.list_units(config.data)
    decide = survey.of(config.data, units).roles
    return [
        (found.role, documents.normalised(found.text), found.label, found.text)
        for unit in units
        for found in reading.documents(config, unit, decide, cleaning.Counts())
    ]


def _by_role(config):
    groups = {}
    for role, text, *_ in _roles(config):
        groups.setdefault(role, set()).add(text)
    return groups


def test_a_corpus_with_every_document_in_two_spellings_leaks_nothing(tmp_path):
    records = tiny.reviews(400)
    others = [
        {**record, "text": spell(record["text"])}
        for record, spell in zip(
            records, itertools.cycle(SPELLINGS), strict=False
        )
    ]
    tiny.write(tmp_path / "reviews.jsonl", [*records, *others])
    config = tiny.labelled_config(tmp_path)
    found = _by_role(config)
    assert {*found} == {"train", "validation", "test"}
    assert min(map(len, found.values())) > 20
    for one, other in itertools.combinations(found.values(), 2):
        assert not one & other
    # What is evaluated is that test, in both spellings.
    examples = [*held_out.examples(Corpus(config.data), held_out.Counts())]
    assert len(examples) == 2 * len(found["test"])
    assert found["test"] == {
        documents.normalised(example.raw.decode()) for example in examples
    }
    for directory in (
        preparation.prepare(config),
        preparation.prepare_labelled(config, tiny.TOKENIZER),
    ):
        prepared = manifest.open_prepared(directory)
        for role in ("train", "validation"):
            number = prepared.roles[role].num_documents
            assert number == 2 * len(found[role])


def test_what_stands_in_a_file_of_its_own_is_left_out_of_training(tmp_path):
    records = tiny.reviews(120)
    tiny.write(tmp_path / "reviews.jsonl", records[:80])
    paths = {}
    for name, part in {
        "unlabeled": [*records[40:100], *records[:4]],
        "validation": records[10:20] + records[95:110],
        "test": records[15:30] + records[90:97],
    }.items():
        changed = [{**r, "text": r["text"].upper() + "!"} for r in part]
        path = tiny.write(tmp_path / f"{name}.jsonl", changed)
        paths[f"data.{name}_path"] = str(path)
    config = tiny.labelled_config(tmp_path, **paths)
    found = _by_role(config)
    texts = [documents.normalised(record["text"]) for record in records]
    assert found["test"] == {*texts[15:30], *texts[90:97]}
    assert found["validation"] == {*texts[10:15], *texts[97:110]}
    assert found["train"] == {*texts[:10], *texts[30:90]}
    assert found["repeats test"] == found["test"]
    assert found["repeats validation"] == {*texts[10:15], *texts[97:100]}
    report = manifest.open_prepared(preparation.prepare(config)).report
    assert report["documents_repeating_test"] == 15 + 7 + 7
    assert report["documents_repeating_validation"] == 5 + 3
    assert report["rows"]["train"]["documents"] == 60 + 50 + 4
    rows = manifest.open_prepared(
        preparation.prepare_labelled(config, tiny.TOKENIZER)
    )
    used = {name: role.num_documents for name, role in rows.roles.items()}
    assert used == {"train": 60, "validation": 18}


@pytest.mark.parametrize(
    ("number", "rate"),
    [
        (0, 0.05),
        (900, 0.2),
        (2_000, 0.1),
        (9_000, 0.05),
    ],
)
def test_few_labels_leave_more_of_them_for_validation(number, rate, tmp_path):
    words = [{"text": f"w {n}", "label": str(n % 2)} for n in range(number)]
    bare = [{"text": f"bare {n}"} for n in range(300)]
    tiny.write(tmp_path / "reviews.jsonl", [*words, *bare])
    config = tiny.labelled_config(tmp_path, **{"data.validation_rate": -1.0})
    units = sources.list_units(config.data)
    known = survey.of(config.data, units)
    assert known.roles.validation_rate == pytest.approx(rate)
    assert known.roles.test_rate == (0.1 if number else 0)
    assert known.without_label == (300 if number else 0)
    counted = {
        role: sum(labels.values()) for role, labels in known.labels.items()
    }
    if number > 1:
        wanted = rate * number
        assert abs(counted["validation"] - wanted) < 4 * wanted**0.5
    examples = [*held_out.examples(Corpus(config.data), held_out.Counts())]
    assert len(examples) == counted["test"]


def test_a_group_is_on_one_side_and_repeats_nothing_of_the_other(tmp_path):
    records = tiny.grouped(500)
    # Some have no group, some no label.
    records += [{"text": r["text"], "label": "no"} for r in records[-20:]]
    records += [{**r, "text": r["text"] + " x", "label": ""} for r in records]
    tiny.write(tmp_path / "reviews.jsonl", records)
    config = tiny.labelled_config(tmp_path, **{"data.group_field": "author"})
    roles, groups = {}, {}
    found = _roles(config)
    for (role, text, _, _), record in zip(found, records, strict=True):
        roles.setdefault(role, set()).add(text)
        groups.setdefault(role, set()).add(record.get("author", ""))
    assert {*roles} == {
        *("train", "validation", "test"),
        *("repeats validation", "repeats test"),
    }
    held = ("train", "validation", "test")
    for one, other in itertools.combinations(held, 2):
        assert not roles[one] & roles[other]
        assert groups[one] & groups[other] <= {""}
    # Without labels or with: nothing of an author that is held out trains.
    assert not groups["train"] & groups["test"] - {""}


def test_a_label_field_that_was_named_must_be_there(tmp_path):
    records = [{"text": "one"}, {"text": "two", "team": "red"}]
    tiny.write(tmp_path / "reviews.jsonl", records)

    def labelled_documents(**change):
        config = tiny.labelled_config(tmp_path, **change)
        known = survey.of(config.data, sources.list_units(config.data))
        return sum(sum(counts.values()) for counts in known.labels.values())

    # Text without labels is text.
    assert labelled_documents() == 0
    assert labelled_documents(**{"data.label_field": ""}) == 0
    assert labelled_documents(**{"data.label_field": "team"}) == 1
    with pytest.raises(ValueError, match="label_field='teem': no document"):
        labelled_documents(**{"data.label_field": "teem"})
    (tmp_path / "a.txt").write_text("words")
    text = {"data.source": "text", "data.path": str(tmp_path / "a.txt")}
    with pytest.raises(ValueError, match="label_field='team'.*csv, jsonl"):
        labelled_documents(**text, **{"data.label_field": "team"})


def test_pieces_of_a_long_document_share_its_role(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 60)
    records = [
        {"text": f"{n} begins " + f"word{n} " * 40, "label": str(n % 2)}
        for n in range(100)
    ]
    tiny.write(tmp_path / "reviews.jsonl", records)
    config = tiny.labelled_config(tmp_path)
    found = {}
    for role, text, *_ in _roles(config):
        found.setdefault(role, set()).add(text.split()[-1])
    assert {*found} == {"train", "validation", "test"}
    assert sum(map(len, found.values())) == 100


def test_it_is_made_once_and_holds_no_path(tmp_path, monkeypatch):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(100))
    config = tiny.labelled_config(tmp_path)
    units = sources.list_units(config.data)
    looked = survey.of(config.data, units, keep=False)
    assert not (tmp_path / "prepared").exists()
    first = survey.of(config.data, units)
    assert first == looked
    monkeypatch.setattr(survey, "_look", None)
    assert survey.of(config.data, units) == first
    [path] = (tmp_path / "prepared").glob("*/manifest.json")
    assert str(tmp_path) not in path.read_text()
    assert json.loads(path.read_text())["survey"]["without_label"] == 0
