"""Preparing says what it found."""

import logging

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


def test_rows_that_exist_say_the_same_again(said):
    text = b"".join(b"word%d other\n" % i for i in range(50))
    first, second = said(text), said(text)
    assert first.splitlines()[:-1] == second.splitlines()[:-1]


def test_a_run_says_it_once(tiny, one_device, caplog):
    run = Run(tiny(), workdir="", runtime=one_device)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            prepare.run(run)
    assert caplog.text.count("read 180 documents") == 1


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
