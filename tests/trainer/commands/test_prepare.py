"""Preparing says what it found, once."""

import logging

import pytest

from trainer.commands import prepare
from trainer.run import Run


@pytest.fixture
def said(tiny, one_device, tmp_path, caplog):
    """A function: the bytes of a text file, changes -> what is said of it."""

    def run(text, more=(), name="text.txt"):
        path = tmp_path / name
        path.write_bytes(text)
        prepared = str(tmp_path / "prepared")
        changes = {"data.path": str(path), "data.prepared_dir": prepared}
        caplog.clear()
        run = Run(
            tiny({**changes, **dict(more)}),
            workdir=str(tmp_path),
            runtime=one_device,
        )
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                prepare.run(run)
        ours = [r for r in caplog.records if r.name.startswith("trainer.")]
        return "\n".join(record.getMessage() for record in ours)

    return run


def test_says_what_was_kept_and_the_same_again(said, tmp_path):
    text = b"".join(b"word%02d other\n" % i for i in range(50))
    first, second = said(text), said(text)
    assert first.startswith("read 50 documents, 600 bytes; kept 50 and 600\n")
    assert first.count("read 50 documents") == 1
    assert f"data in {tmp_path / 'prepared'}" in first
    assert "dropped" not in first
    assert first.splitlines()[:-1] == second.splitlines()[:-1]


def test_another_encoding_is_suspected(said):
    text = "fünf schöne Wörter\n" * 50
    assert "WARNING" not in said(text.encode())
    assert "WARNING: the text is not all UTF-8" in said(text.encode("latin1"))


def test_a_lack_of_validation_text_is_said(said):
    text = said(b"same text\n" * 20, {"data.validation_rate": 0.001})
    assert "validation: no document fell into it" in text


def test_labels_are_looked_at_and_may_be_useless(said, tmp_path):
    csv = {"data.source": "csv"}
    text = b"".join(
        b"word%02d of number %d,%d\n" % (i, i % 2, i % 2) for i in range(60)
    )
    found = said(b"text,label\n" + text, csv, "two.csv")
    assert "n-grams of other documents answer" in found
    assert "WARNING: validation has" in found
    same = b"".join(b"word%02d other,yes\n" % i for i in range(50))
    found = said(b"text,label\n" + same, csv, "one.csv")
    assert "WARNING: no classifier can learn this" in found
    assert "has one value in the training documents" in found
