import dataclasses
import errno
import gzip
import json
import pathlib
import random

import numpy as np
import pytest
import tensorflow as tf

import storage
from configs import schema
from input_pipeline import (
    blocks,
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

NUM_DOCUMENTS = 400
COMMON = ["the", "film", "was", "good", "bad", "long"]


def _texts(num_documents=NUM_DOCUMENTS, seed=0):
    """Documents of common words, each with a word of its own."""
    generator = random.Random(seed)
    return [
        f"own{seed}x{number} "
        + " ".join(generator.choices(COMMON, k=generator.randrange(40)))
        for number in range(num_documents)
    ]


def _config(tmp_path, *, path="", vocabulary_size=1_000, **data):
    return schema.Config(
        data=schema.DataConfig(
            **{
                "source": "text",
                "path": path or str(tmp_path / "*.txt"),
                "prepared_dir": str(tmp_path / "prepared"),
                "num_processes": 1,
                "sequence_length": 32,
                "validation_rate": 0.2,
                **data,
            }
        ),
        tokenizer=schema.TokenizerConfig(vocabulary_size=vocabulary_size),
    )


@pytest.fixture(name="texts")
def _written(tmp_path):
    texts = _texts()
    (tmp_path / "a.txt").write_text("\n".join(texts[:150]) + "\n\n \n...\n")
    (tmp_path / "b.txt").write_text("\n".join(texts[150:]))
    return texts


def _open(config):
    return manifest.open_prepared(preparation.prepare(config))


def _content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _rows(prepared, role):
    """Slots [rows, L] in the order in which they are stored."""
    payloads = tf.data.TFRecordDataset(list(prepared.roles[role].files))
    return np.concatenate(
        [
            np.frombuffer(payload, prepared.dtype).reshape(
                -1, prepared.sequence_length
            )
            for payload in payloads.as_numpy_iterator()
        ]
    )


def _own_words(prepared, role):
    """Which documents' own words occur in the rows of a role."""
    ids = packing.unpack(tf.constant(_rows(prepared, role)))["token_ids"]
    words = prepared.tokenizer.decode(ids.numpy().ravel()).split()
    assert len(set(words)) <= prepared.tokenizer.vocabulary_size
    return sorted(word for word in words if word.startswith("own"))


def _by_role(texts, *, test_rate=0.0):
    """Own words of the documents by role."""
    decide = roles.Roles(validation_rate=0.2, test_rate=test_rate)
    groups = {"train": [], "validation": [], "test": []}
    for text in texts:
        groups[decide.of(text, "train")].append(text.split()[0])
    return {role: sorted(words) for role, words in groups.items()}


def test_the_same_bytes_for_one_and_two_processes(tmp_path, texts, monkeypatch):
    # Units are listed here and read in the workers.
    monkeypatch.setattr(text_files, "UNIT_BYTES", 4_000)
    config = _config(tmp_path)
    assert len(sources.list_units(config.data)) > 4
    one = preparation.prepare(config)
    two = preparation.prepare(
        _config(tmp_path, prepared_dir=str(tmp_path / "p2"), num_processes=2)
    )
    assert one.name == two.name
    assert _content(one) == _content(two)
    assert {"manifest.json", "vocabulary.json", "train-00000.tfrecord"} < set(
        _content(one)
    )
    # Where units end decides the rows, hence nothing else may.
    monkeypatch.setattr(text_files, "UNIT_BYTES", 10**6)
    other = preparation.prepare(
        _config(tmp_path, prepared_dir=str(tmp_path / "p3"))
    )
    assert _content(other) != _content(one)
    assert not [path for path in tmp_path.rglob("*.tmp-*")]


def test_every_document_in_one_role(tmp_path, texts):
    prepared = _open(_config(tmp_path))
    expected = _by_role(texts)
    assert min(len(expected[r]) for r in ("train", "validation")) > 10
    # Only training words are in the vocabulary, and all of them.
    own = sorted(
        word for word in prepared.tokenizer.vocabulary if word[:3] == "own"
    )
    assert own == expected["train"]
    assert _own_words(prepared, "train") == expected["train"]
    assert _own_words(prepared, "validation") == []
    # Nothing is set aside where nothing has a label.
    assert prepared.report["documents_reserved_for_test"] == 0
    assert prepared.roles["validation"].num_documents == len(
        expected["validation"]
    )


def test_rows_give_the_text_back(tmp_path, texts):
    prepared = _open(_config(tmp_path, sequence_length=64))
    features = packing.unpack(tf.constant(_rows(prepared, "train")))
    found = []
    for ids, segments in zip(
        features["token_ids"].numpy(),
        features["segment_ids"].numpy(),
        strict=True,
    ):
        for number in range(1, segments.max() + 1):
            found.append(prepared.tokenizer.decode(ids[segments == number]))
    decide = roles.Roles(validation_rate=0.2, test_rate=0.0)
    assert sorted(found) == sorted(
        text.strip() for text in texts if decide.of(text, "train") == "train"
    )


def test_rows_of_neighbouring_documents_are_apart(tmp_path, texts):
    prepared = _open(_config(tmp_path, packing="document"))
    rows = packing.unpack(tf.constant(_rows(prepared, "train")))
    # The first word of a row tells which document it is.
    first = prepared.tokenizer.decode(rows["token_ids"][:, 0].numpy()).split()
    numbers = [int(word.removeprefix("own0x")) for word in first]
    assert abs(np.corrcoef(numbers, range(len(numbers)))[0, 1]) < 0.3


def test_the_report_adds_up(tmp_path, texts):
    prepared = _open(_config(tmp_path, validation_packing="document"))
    report = prepared.report
    read, rows = report["read"], report["rows"]
    size = sum(path.stat().st_size for path in tmp_path.glob("*.txt"))
    assert read["documents_read"] == len(texts) + 3
    assert read["documents_dropped_empty"] == 2
    assert read["documents_kept"] == (
        rows["train"]["documents"]
        + rows["validation"]["documents"]
        + report["documents_reserved_for_test"]
        + report["documents_repeating_validation"]
    )
    # "..." is a document, but has no word.
    assert 1 == sum(rows[role]["documents_without_tokens"] for role in rows)
    dropped = sum(
        number
        for name, number in read.items()
        if name.startswith("bytes_dropped_")
    )
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
        flags = stored >> (8 * stored.dtype.itemsize - 1)
        assert counts["segments"] == flags.sum()
    assert rows["validation"]["tokens_cut"] > 0 == rows["train"]["tokens_cut"]
    # One document a row, where there is a word at all.
    validation = rows["validation"]
    assert validation["rows"] == (
        validation["documents"] - validation["documents_without_tokens"]
    )
    assert report["vocabulary_size"] == prepared.tokenizer.vocabulary_size


def test_the_second_time_nothing_is_done(tmp_path, texts, monkeypatch):
    config = _config(tmp_path)
    expected = preparation.locate(config)
    assert not expected.parent.exists()
    directory = preparation.prepare(config)
    assert directory == expected == preparation.locate(config)
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    monkeypatch.setattr(preparation, "_write", None)
    assert preparation.prepare(config) == directory
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*")} == before


def test_what_else_runs_does_not_matter(tmp_path, texts, monkeypatch):
    config = _config(tmp_path)
    directory = preparation.prepare(config)
    monkeypatch.setattr(preparation, "_write", None)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a.txt", "b.txt"):
        (elsewhere / name).write_bytes((tmp_path / name).read_bytes())
    for other in (
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
    more = tmp_path / "more"
    more.write_text(texts[0])
    changes = [
        {},
        {"validation_rate": 0.25},
        {"sequence_length": 33},
        {"packing": "document"},
        {"validation_packing": "document"},
        {"vocabulary_size": 999},
        {"path": str(tmp_path / "a.txt")},
        {"document": "file"},
        {"text_field": "review"},
        {"validation_path": str(more), "path": str(tmp_path / "a.txt")},
        {"unlabeled_path": str(more), "path": str(tmp_path / "a.txt")},
        {"source": "jsonl", "path": str(records)},
        {"source": "jsonl", "path": str(records), "label_field": "who"},
        {"source": "jsonl", "path": str(records), "group_field": "who"},
        # A test file counts where it repeats the training text.
        {"test_path": str(more), "path": str(tmp_path / "a.txt")},
    ]

    def fingerprint(**change):
        return preparation.locate(_config(tmp_path, **change)).name

    found = {fingerprint(**change) for change in changes}
    assert len(found) == len(changes)
    (tmp_path / "a.txt").write_text("other words")
    assert fingerprint(path=str(tmp_path / "a.txt")) not in found


@pytest.mark.parametrize("field", ["one", "two"])
def test_the_field_decides_the_rows(tmp_path, field):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(
            json.dumps({"one": f"left {n}", "two": f"right {n}"}) + "\n"
            for n in range(50)
        )
    )
    prepared = _open(
        _config(tmp_path, source="jsonl", path=str(path), text_field=field)
    )
    word = {"one": "left", "two": "right"}[field]
    assert prepared.tokenizer.vocabulary[2] == word


def test_nothing_of_a_test_file_is_in_the_rows(tmp_path, texts):
    test = tmp_path / "test.gz"

    def prepared(*lines):
        test.write_bytes(gzip.compress("\n".join(lines).encode()))
        return _open(_config(tmp_path, test_path=str(test)))

    before = prepared("own0test0 words of the test")
    expected = _by_role(texts)
    assert _own_words(before, "train") == expected["train"]
    assert before.report["documents_reserved_for_test"] == 0
    assert before.report["read"]["documents_read"] == len(texts) + 3
    everything = b"".join(_content(before.directory).values())
    assert b"own0test0" not in everything
    assert b"test.gz" not in everything
    # Another test is another evaluation: the rows stay what they are.
    other = prepared("another test")
    assert other.directory == before.directory
    # But what stands in both is left out of them.
    lost = [texts[0], texts[7]]
    without = prepared("a test", *(f"\u201c{t.upper()}\u201d" for t in lost))
    assert without.directory != before.directory
    assert without.report["documents_repeating_test"] == len(lost)
    kept = _by_role([text for text in texts if text not in lost])
    assert _own_words(without, "train") == kept["train"]
    assert without.roles["validation"].num_documents == before.roles[
        "validation"
    ].num_documents - len(lost) + len(expected["train"]) - len(kept["train"])


def test_more_text_repeats_nothing_that_is_held_out(tmp_path, texts):
    """Text without labels: all of the labelled text, and more of its own."""
    new = _texts(60, seed=1)
    (tmp_path / "more").write_text("\n".join([*texts, *new]))
    prepared = _open(_config(tmp_path, unlabeled_path=str(tmp_path / "more")))
    expected = _by_role(texts)
    train = sorted(
        [*expected["train"], *expected["train"]]
        + [text.split()[0] for text in new]
    )
    assert _own_words(prepared, "train") == train
    report = prepared.report
    assert report["documents_repeating_validation"] == len(
        expected["validation"]
    )


@pytest.mark.parametrize("limit", [511, 512, 513])
def test_the_vocabulary_of_the_first_documents(tmp_path, monkeypatch, limit):
    # Documents come in batches of 512; two units.
    texts = _texts(900)
    (tmp_path / "a.txt").write_text("\n".join(texts[:500]) + "\n")
    (tmp_path / "b.txt").write_text("\n".join(texts[500:]))
    monkeypatch.setattr(text_files, "UNIT_BYTES", 50_000)
    config = _config(tmp_path, vocabulary_size=5_000)
    config = dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(config.tokenizer, max_documents=limit),
    )
    prepared = _open(config)
    own = sorted(w for w in prepared.tokenizer.vocabulary if w[:3] == "own")
    expected = _by_role(texts[:limit])["train"]
    assert own == expected
    # Word pieces are learned from the same documents.
    read = vocabulary.training_texts(
        config,
        sources.list_units(config.data),
        roles.Roles(validation_rate=0.2, test_rate=0.0),
        limit,
    )
    assert sorted(text.split()[0] for text in read) == expected


def _one_document(role):
    decide = roles.Roles(validation_rate=0.2, test_rate=0.0)
    numbered = (f"number {number}" for number in range(1_000))
    return next(text for text in numbered if decide.of(text, "train") == role)


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
    (tmp_path / "a.txt").write_text(
        _one_document("validation") + "\n" + _one_document("validation")
    )
    with pytest.raises(ValueError, match="No training text.*2 are validation"):
        preparation.prepare(_config(tmp_path))
    assert [p.suffix for p in (tmp_path / "prepared").iterdir()] == [".lock"]


@pytest.mark.parametrize("text", ["... !!! ,", "[mask]\n[mask]\n...\n"])
def test_text_without_a_word(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match="no word at all"):
        preparation.prepare(_config(tmp_path, validation_rate=1e-9))


def test_what_a_killed_process_left_is_removed(tmp_path, texts):
    config = _config(tmp_path)
    directory = preparation.prepare(config)
    before = _content(directory)
    left = directory.with_name(f"{directory.name}.tmp-1")
    directory.rename(left)
    other = directory.with_name("0123456789abcdef.tmp-1")
    other.mkdir()
    assert _content(preparation.prepare(config)) == before
    assert not left.exists()
    # That of another corpus may still be in use.
    assert other.exists()


def test_a_full_device(tmp_path, texts, monkeypatch):
    def write(self, rows):
        del self, rows
        raise OSError(errno.ENOSPC, "No space left on device", "train")

    config = _config(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(blocks.BlockWriter, "write", write)
        with pytest.raises(OSError, match="No space left") as caught:
            preparation.prepare(config)
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "prepared").glob("*.tmp-*"))
    assert preparation.prepare(config).is_dir()


def test_a_flipped_byte_in_any_file_is_found(tmp_path, texts):
    directory = preparation.prepare(_config(tmp_path))
    generator = random.Random(0)
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        for place in generator.sample(range(len(content)), 8):
            damaged = bytearray(content)
            damaged[place] ^= generator.randrange(1, 256)
            path.write_bytes(damaged)
            with pytest.raises(storage.DamagedError, match=path.name):
                manifest.open_prepared(directory)
        path.unlink()
        with pytest.raises(storage.DamagedError, match=path.name):
            manifest.open_prepared(directory)
        path.write_bytes(content)
    manifest.open_prepared(directory)


def test_pieces_wrap_their_segments(tmp_path, texts):
    config = _config(tmp_path)
    config = dataclasses.replace(
        config,
        tokenizer=schema.TokenizerConfig(kind="wordpiece", vocabulary_size=90),
    )
    prepared = _open(config)
    assert isinstance(prepared.tokenizer, tokenizer.WordPieceTokenizer)
    assert prepared.tokenizer.vocabulary_size <= 90
    special = prepared.tokenizer.special
    features = packing.unpack(tf.constant(_rows(prepared, "train")))
    ids = features["token_ids"].numpy()
    starts = features["position_ids"].numpy() == 0
    assert (ids[starts & (ids > 0)] == special.start).all()
    assert (ids == special.start).sum() == (ids == special.end).sum()
    assert not (ids == special.mask).any()


def _chinese(num_documents, seed=0):
    generator = random.Random(seed)
    return [
        "".join(map(chr, generator.choices(range(0x4E00, 0x4F00), k=25)))
        for _ in range(num_documents)
    ]


def test_text_that_words_cannot_read_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(_chinese(200)))
    with pytest.raises(
        ValueError, match="cannot read.*tokenizer.kind=wordp"
    ) as e:
        preparation.prepare(_config(tmp_path))
    assert "100 % of the documents" in str(e.value)
    pieces = schema.TokenizerConfig(kind="wordpiece")
    prepared = _open(dataclasses.replace(_config(tmp_path), tokenizer=pieces))
    counts = prepared.report["rows"]["train"]
    assert counts["documents_long"] == counts["documents"]
    assert counts["documents_long_unread"] == counts["tokens_unknown"] == 0


def test_text_of_unknown_words_is_refused(tmp_path, texts):
    given = tokenizer.UnicodeWordTokenizer(["", "[UNK]", "film", "[mask]"])
    with pytest.raises(ValueError, match=r"in train, [89]\d % .* unknown"):
        preparation.prepare(_config(tmp_path), given)


def test_a_little_text_tells_nothing(tmp_path):
    """Short documents are what they are; few documents may be anything."""
    lines = [*_chinese(5), *(["so good", "film", "was bad"] * 300)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    rows = _open(_config(tmp_path)).report["rows"]
    read = [rows["train"], rows["validation"]]
    assert 0 < sum(counts["documents_long_unread"] for counts in read) <= 5


def test_a_given_vocabulary_is_not_learned(tmp_path, texts):
    config = _config(tmp_path)
    given = tokenizer.WordTokenizer(["", "[UNK]", *COMMON, "[mask]"])
    prepared = manifest.open_prepared(preparation.prepare(config, given))
    assert prepared.tokenizer.vocabulary == given.vocabulary
    assert prepared.fingerprint != preparation.prepare(config).name
    # Neither the size to learn nor anything else about learning counts.
    other = _config(tmp_path, vocabulary_size=99)
    assert preparation.prepare(other, given).name == prepared.fingerprint
    given = tokenizer.WordTokenizer(["", "[UNK]", *COMMON[::-1], "[mask]"])
    assert preparation.prepare(config, given).name != prepared.fingerprint


def test_the_path_is_that_of_the_configuration(tmp_path, texts):
    directory = preparation.prepare(_config(tmp_path))
    assert directory.parent == pathlib.Path(tmp_path / "prepared")
    assert manifest.open_prepared(directory).fingerprint == directory.name
