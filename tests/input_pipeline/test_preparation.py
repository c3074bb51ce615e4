"""Text to rows for pretraining: bytes, roles, report, vocabulary, names."""

import collections
import dataclasses
import gzip
import json
import random

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from input_pipeline import (
    manifest,
    packing,
    preparation,
    roles,
    sources,
    stream,
    text_files,
    tokenizer,
    vocabulary,
)
from tests.input_pipeline import conftest as tiny

COMMON = ["the", "film", "was", "good", "bad", "long"]
DECIDE = roles.Roles(validation_rate=0.2, test_rate=0.0)


def _texts(num_documents=400):
    """Documents of common words, each with a word of its own."""
    generator = random.Random(0)
    return [
        f"own{number} "
        + " ".join(generator.choices(COMMON, k=generator.randrange(40)))
        for number in range(num_documents)
    ]


def _config(tmp_path, *, path="", tokenizer=None, **data):
    changes = {
        "source": "text",
        "path": path or str(tmp_path / "*.txt"),
        "sequence_length": 32,
        **data,
    }
    tokenizer = {"vocabulary_size": 1_000, **(tokenizer or {})}
    return tiny.config_of(
        tmp_path,
        **{f"data.{name}": value for name, value in changes.items()},
        **{f"tokenizer.{name}": value for name, value in tokenizer.items()},
    )


@pytest.fixture(name="texts")
def _written(tmp_path):
    texts = _texts()
    (tmp_path / "a.txt").write_text("\n".join(texts[:150]) + "\n\n \n...\n")
    (tmp_path / "b.txt").write_text("\n".join(texts[150:]))
    return texts


def _open(config):
    return manifest.open_prepared(preparation.prepare(config))


def _rows(prepared, role):
    """Slots [rows, L] in the order in which they are stored."""
    rows = stream.stored_rows(prepared, role)
    return np.array(list(rows.as_numpy_iterator()))


def _words(prepared, role):
    ids = packing.unpack(tf.constant(_rows(prepared, role)))["token_ids"]
    return prepared.tokenizer.decode(ids.numpy().ravel()).split()


def _own(words):
    return sorted(word for word in words if word.startswith("own"))


def _of_role(texts, role):
    return [text for text in texts if DECIDE.of(text, "train") == role]


def test_the_same_bytes_for_one_and_two_processes(tmp_path, monkeypatch):
    # Units are listed here and read in the workers.
    monkeypatch.setattr(text_files, "UNIT_BYTES", 3_000)
    records = tiny.grouped(400)
    tiny.write(tmp_path / "reviews.jsonl", records[:300])
    more = "".join(record["text"] + "\n" for record in records[200:])
    (tmp_path / "more.txt").write_text(more)
    tiny.write(tmp_path / "v.jsonl", records[280:340])

    def prepare(number, num_processes):
        folder = tmp_path / f"p{number}"
        config = tiny.labelled_config(
            tmp_path,
            **{
                "data.num_processes": num_processes,
                "data.prepared_dir": str(folder),
                "data.group_field": "author",
                "data.unlabeled_path": str(tmp_path / "more.txt"),
                "data.validation_path": str(tmp_path / "v.jsonl"),
            },
        )
        preparation.prepare_labelled(config, tiny.TOKENIZER)
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    one = prepare(1, 1)
    assert one == prepare(2, 2)
    # A survey and labelled rows; those for pretraining: soak/test_prepared.py.
    assert len([n for n in one if n.endswith("manifest.json")]) == 2
    assert not [path for path in tmp_path.rglob("*.tmp-*")]
    # Where units end decides the rows, hence nothing else may.
    monkeypatch.setattr(text_files, "UNIT_BYTES", 10**6)
    assert one != prepare(3, 1)


def test_every_document_has_one_role_and_the_report_adds_up(tmp_path, texts):
    prepared = _open(_config(tmp_path, validation_packing="document"))
    train, validation = (_of_role(texts, r) for r in preparation.ROLES)
    assert min(len(train), len(validation)) > 10
    # Only training words are in the vocabulary, and all of them.
    expected = _own(" ".join(train).split())
    assert _own(prepared.tokenizer.vocabulary) == expected
    assert _own(_words(prepared, "validation")) == []
    # The rows hold every word of the text as often as the text.
    assert collections.Counter(_words(prepared, "train")) == (
        collections.Counter(" ".join(train).split())
    )
    report = prepared.report
    read, rows = report["read"], report["rows"]
    size = sum(path.stat().st_size for path in tmp_path.glob("*.txt"))
    assert read["documents_read"] == len(texts) + 3
    assert read["documents_dropped_empty"] == 2
    assert read["documents_kept"] == (
        rows["train"]["documents"]
        + rows["validation"]["documents"]
        + report["documents_repeating_validation"]
    )
    # Nothing is set aside where nothing has a label.
    assert report["documents_reserved_for_test"] == 0
    # "..." is a document, but has no word.
    assert 1 == sum(rows[role]["documents_without_tokens"] for role in rows)
    dropped = sum(n for k, n in read.items() if k[:14] == "bytes_dropped_")
    assert read["bytes_read"] == read["bytes_kept"] + dropped
    # All but the line ends.
    assert size - read["bytes_read"] == len(texts) + 2
    for role, counts in rows.items():
        stored = _rows(prepared, role)
        assert counts["tokens_read"] == (
            counts["tokens_kept"] + counts["tokens_cut"]
        )
        assert counts["rows"] == len(stored) == prepared.roles[role].num_rows
        assert counts["slots_used"] == np.count_nonzero(stored)
        assert prepared.roles[role].num_tokens == counts["slots_used"]
        assert counts["documents"] == prepared.roles[role].num_documents
    assert rows["validation"]["tokens_cut"] > 0 == rows["train"]["tokens_cut"]
    assert report["vocabulary_size"] == prepared.tokenizer.vocabulary_size


def test_rows_of_neighbouring_documents_are_apart(tmp_path, texts):
    rows = _rows(
        prepared := _open(_config(tmp_path, packing="document")), "train"
    )
    # The first word of a row tells which document it is.
    first = prepared.tokenizer.decode(rows[:, 0].astype(int) - 2**15).split()
    numbers = [int(word.removeprefix("own")) for word in first]
    assert abs(np.corrcoef(numbers, range(len(numbers)))[0, 1]) < 0.3


def test_rows_are_made_once_whatever_else_runs(tmp_path, texts, monkeypatch):
    config = _config(tmp_path)
    expected = preparation.locate(config)
    assert not expected.parent.exists()
    directory = preparation.prepare(config)
    assert directory == expected
    monkeypatch.setattr(preparation, "_write", None)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a.txt", "b.txt"):
        (elsewhere / name).write_bytes((tmp_path / name).read_bytes())
    for other in (
        config,
        dataclasses.replace(config, seed=5),
        dataclasses.replace(
            config, masking=schema.MaskingConfig(select_rate=0.5)
        ),
        _config(tmp_path, num_processes=2),
        _config(tmp_path, path=str(elsewhere / "*.txt")),
    ):
        assert preparation.prepare(other) == directory


def test_whatever_changes_the_rows_is_part_of_the_name(tmp_path, texts):
    records = tmp_path / "records.jsonl"
    records.write_text(
        "".join(
            json.dumps({"text": text, "label": "x", "who": str(n % 9)}) + "\n"
            for n, text in enumerate(texts)
        )
    )
    (tmp_path / "more").write_text(texts[0])
    a, more = str(tmp_path / "a.txt"), str(tmp_path / "more")
    jsonl = {"source": "jsonl", "path": str(records)}
    changes = [
        {},
        {"validation_rate": 0.25},
        {"sequence_length": 33},
        {"packing": "document"},
        {"validation_packing": "document"},
        {"tokenizer": {"vocabulary_size": 999}},
        {"path": a},
        {"document": "file"},
        {"text_field": "review"},
        {"path": a, "validation_path": more},
        {"path": a, "unlabeled_path": more},
        # A test file counts where it repeats the training text.
        {"path": a, "test_path": more},
        jsonl,
        {**jsonl, "label_field": "who"},
        {**jsonl, "group_field": "who"},
    ]

    def name(**change):
        return preparation.locate(_config(tmp_path, **change)).name

    found = {name(**change) for change in changes}
    assert len(found) == len(changes)
    (tmp_path / "a.txt").write_text("other words")
    assert name(path=a) not in found


def test_nothing_of_a_test_file_is_in_the_rows(tmp_path, texts):
    test = tmp_path / "test.gz"

    def prepared(*lines):
        test.write_bytes(gzip.compress("\n".join(lines).encode()))
        return _open(_config(tmp_path, test_path=str(test)))

    before = prepared("ownTest words of the test")
    assert before.report["read"]["documents_read"] == len(texts) + 3
    everything = b"".join(p.read_bytes() for p in before.directory.iterdir())
    assert b"owntest" not in everything
    assert b"test.gz" not in everything
    # Another test is another evaluation: the rows stay what they are.
    assert prepared("another test").directory == before.directory
    # But what stands in both is left out of them.
    lost = [texts[0], texts[7]]
    without = prepared("a test", *(f"\u201c{t.upper()}\u201d" for t in lost))
    assert without.directory != before.directory
    assert without.report["documents_repeating_test"] == len(lost)
    left = [text for text in texts if text not in lost]
    expected = _own(" ".join(_of_role(left, "train")).split())
    assert _own(_words(without, "train")) == expected


@pytest.mark.parametrize("limit", [511, 512, 513])
def test_the_vocabulary_of_the_first_documents(tmp_path, monkeypatch, limit):
    # Documents come in batches of 512; two units.
    texts = _texts(900)
    (tmp_path / "a.txt").write_text("\n".join(texts[:500]) + "\n")
    (tmp_path / "b.txt").write_text("\n".join(texts[500:]))
    monkeypatch.setattr(text_files, "UNIT_BYTES", 50_000)
    config = _config(
        tmp_path,
        tokenizer={"vocabulary_size": 5_000, "max_documents": limit},
    )
    expected = _own(" ".join(_of_role(texts[:limit], "train")).split())
    assert _own(_open(config).tokenizer.vocabulary) == expected
    # Word pieces are learned from the same documents.
    read = vocabulary.training_texts(
        config, sources.list_units(config.data), DECIDE, limit
    )
    assert sorted(text.split()[0] for text in read) == expected


def _one_document(role):
    return _of_role((f"number {number}" for number in range(1_000)), role)[0]


def test_one_document_is_enough_to_train(tmp_path):
    (tmp_path / "a.txt").write_text(_one_document("train"))
    prepared = _open(_config(tmp_path))
    assert prepared.roles["train"].num_rows == 1
    assert prepared.roles["validation"] == manifest.Role((), (), 0, 0, 0)
    assert list(stream.validation_rows(prepared, global_batch_size=4)) == []
    batches = stream.training_rows(
        prepared, seed=0, first_step=0, global_batch_size=4
    )
    for _, rows in batches.take(2):
        assert (rows == _rows(prepared, "train")).numpy().all()


def test_without_training_text_nothing_is_left_behind(tmp_path):
    text = _one_document("validation")
    (tmp_path / "a.txt").write_text(f"{text}\n{text}")
    with pytest.raises(ValueError, match="No training text.*2 are validation"):
        preparation.prepare(_config(tmp_path))
    assert [p.suffix for p in (tmp_path / "prepared").iterdir()] == [".lock"]


def _unspaced(num_documents, *, first, phrases=1):
    """Documents of phrases of the 64 characters from `first` on."""
    generator = random.Random(0)
    characters = [chr(first + n) for n in range(64)]
    return [
        " ".join(
            "".join(generator.choices(characters, k=25)) for _ in range(phrases)
        )
        for _ in range(num_documents)
    ]


@pytest.mark.parametrize(
    ("first", "phrases"),
    # Korean, in one word, and Thai, which has blanks between phrases.
    [(0xAC00, 1), (0x0E01, 4)],
)
def test_text_that_words_cannot_read_is_refused(tmp_path, first, phrases):
    texts = _unspaced(200, first=first, phrases=phrases)
    (tmp_path / "a.txt").write_text("\n".join(texts))
    with pytest.raises(
        ValueError, match="cannot read.*100 % of the doc.*tokenizer.kind=wordp"
    ):
        preparation.prepare(_config(tmp_path))
    prepared = _open(_config(tmp_path, tokenizer={"kind": "wordpiece"}))
    counts = prepared.report["rows"]["train"]
    assert counts["documents_long"] == counts["documents"]
    assert counts["documents_long_unread"] == counts["tokens_unknown"] == 0
    # Every segment stands between the start and end tokens.
    special = prepared.tokenizer.special
    features = packing.unpack(tf.constant(_rows(prepared, "train")))
    ids = features["token_ids"].numpy()
    starts = features["position_ids"].numpy() == 0
    assert (ids[starts & (ids > 0)] == special.start).all()
    assert (ids == special.start).sum() == (ids == special.end).sum()
    # Short documents are what they are; few documents may be anything.
    lines = [*texts[:5], *(["so good", "film", "was bad"] * 300)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    rows = _open(_config(tmp_path)).report["rows"].values()
    assert 0 < sum(counts["documents_long_unread"] for counts in rows) <= 5


def test_a_given_vocabulary_is_not_learned(tmp_path, texts):
    config = _config(tmp_path)
    given = tokenizer.WordTokenizer(["", "[UNK]", *COMMON, "[mask]"])
    directory = preparation.prepare(config, given)
    prepared = manifest.open_prepared(directory)
    assert prepared.tokenizer.vocabulary == given.vocabulary
    assert preparation.locate(config) != directory
    # Neither the size to learn nor anything else about learning counts.
    other = _config(tmp_path, tokenizer={"vocabulary_size": 99})
    assert preparation.locate(other, given) == directory
    given = tokenizer.WordTokenizer(["", "[UNK]", *COMMON[::-1], "[mask]"])
    assert preparation.locate(config, given) != directory
    unknown = tokenizer.UnicodeWordTokenizer(["", "[UNK]", "film", "[mask]"])
    with pytest.raises(ValueError, match=r"in train, [89]\d % .* unknown"):
        preparation.prepare(config, unknown)
