"""Tests of trainer/commands/prepare.py."""

import logging
import types

import pytest

from trainer.commands import prepare
from trainer.run import Run


@pytest.fixture
def said(tiny, one_device, tmp_path, caplog):
    """A function: the bytes of a text file, changes -> what is said of it."""

    def run(text, more=()):
        path = tmp_path / "text.txt"
        path.write_bytes(text)
        config = tiny(
            {
                "data.path": str(path),
                "data.prepared_dir": str(tmp_path / "prepared"),
                **dict(more),
            }
        )
        caplog.clear()
        with caplog.at_level(logging.INFO):
            prepare.run(Run(config, workdir=str(tmp_path), runtime=one_device))
        ours = [r for r in caplog.records if r.name.startswith("trainer.")]
        return "\n".join(record.getMessage() for record in ours)

    return run


def test_says_what_was_kept(said, tmp_path):
    text = said(b"".join(b"word%02d other\n" % i for i in range(50)))
    assert "read 50 documents, 600 bytes; kept 50 and 600\n" in text
    assert "train: " in text
    assert f"data in {tmp_path / 'prepared'}" in text
    assert "dropped" not in text


def test_another_process_says_the_same(said, monkeypatch):
    text = b"".join(b"word%d other\n" % i for i in range(50))
    first = said(text)
    monkeypatch.setattr(prepare, "_told", set())
    second = said(text)
    assert first.splitlines()[:-1] == second.splitlines()[:-1]


def test_a_process_says_it_once(said):
    text, other = (
        b"".join(b"word%d other\n" % i for i in range(number))
        for number in (50, 60)
    )
    assert said(text)
    assert said(text) == ""
    assert "read 60 documents" in said(other)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"good\xff\xfe text\n", "dropped 2 bytes: invalid utf8"),
        (b"good\x00 text\n", "dropped 1 bytes: control"),
        (b"\xef\xbb\xbfgood text\n", "dropped 3 bytes: byte order mark"),
        (b"\n  \n", "2 documents left out: no text in them"),
    ],
)
def test_what_is_cleaned_away_is_counted(said, raw, message):
    assert message in said(raw + b"more text\n" * 50)


def test_another_encoding_is_suspected(said):
    text = "fünf schöne Wörter\n" * 50
    assert "WARNING" not in said(text.encode())
    assert "WARNING: the text is not all UTF-8" in said(text.encode("latin1"))


def test_line_ends_of_windows_are_none_of_the_text(said):
    text = b"".join(b"word%d other\n" % i for i in range(50))
    counts = [
        said(raw).splitlines()[0]
        for raw in (text, text.replace(b"\n", b"\r\n"))
    ]
    assert counts[0] == counts[1]


def test_a_line_that_is_far_too_long_is_cut_and_counted(said):
    text = said(b"long line " * 250_000 + b"\n")  # 2.5 MB
    assert "documents made by cutting longer ones in pieces" in text


def test_a_lack_of_validation_text_is_said(said):
    text = said(b"same text\n" * 20, {"data.validation_rate": 0.001})
    assert "validation: no document fell into it" in text


def test_describe_leaves_out_what_did_not_happen():
    rows = {
        "rows": 2,
        "documents": 3,
        "tokens_kept": 30,
        "tokens_cut": 2,
        "slots_used": 30,
        "tokens_read": 32,
        "tokens_unknown": 4,
        "documents_long": 1_200,
        "documents_long_unread": 1,
    }
    read = dict.fromkeys(
        (
            "documents_read",
            "bytes_read",
            "documents_kept",
            "bytes_kept",
            "documents_dropped_empty",
            "documents_split",
            "bytes_dropped_control",
        ),
        0,
    )
    prepared = types.SimpleNamespace(
        sequence_length=16,
        report={
            "read": read,
            "documents_reserved_for_test": 0,
            "documents_repeating_validation": 7,
            "documents_repeating_test": 4,
            "documents_without_label": 1_500,
            "vocabulary_size": 1234,
            "rows": {"train": rows, "validation": rows},
        },
    )
    assert prepare.describe(prepared) == [
        "read 0 documents, 0 bytes; kept 0 and 0",
        "1,500 documents without a label: for pretraining alone",
        "4 documents left out: also in test, or of a group there",
        "7 documents left out: also in validation, or of a group there",
        "vocabulary: 1,234 tokens",
        "train: 3 documents, 30 tokens in 2 rows of 16 (93.8 % filled);"
        " cut 2 tokens",
        "train: 12.5 % of the tokens are unknown; 1 of 1,200 documents of 20"
        " characters or more have one or two tokens",
        "validation: 3 documents, 30 tokens in 2 rows of 16 (93.8 % filled);"
        " cut 2 tokens",
        "validation: 12.5 % of the tokens are unknown; 1 of 1,200 documents of"
        " 20 characters or more have one or two tokens",
    ]
