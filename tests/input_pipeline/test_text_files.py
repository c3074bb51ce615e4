import gzip
import os
import random
import tracemalloc
import zipfile

import pytest
import zstandard

from configs import schema
from input_pipeline import cleaning, documents, text_files


def _config(path, **fields):
    return schema.DataConfig(source="text", path=str(path), **fields)


def _read(data, units, counts=None):
    counts = cleaning.Counts() if counts is None else counts
    return [
        document.raw
        for unit in units
        for piece in unit.pieces
        for document in text_files.read(data, piece, counts)
    ]


def _texts(path, **fields):
    data = _config(path, **fields)
    return _read(data, text_files.list_units(data))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"\n\na\n\n", [b"", b"", b"a", b""]),
        (b"a\rb\n", [b"a\rb"]),
        (b"a\x00b\n\xff\n", [b"a\x00b", b"\xff"]),
    ],
)
def test_lines(tmp_path, content, lines):
    (tmp_path / "a.txt").write_bytes(content)
    assert _texts(tmp_path / "a.txt") == lines
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(content))
    assert _texts(tmp_path / "b.txt.gz") == lines
    (tmp_path / "b.txt.zst").write_bytes(zstandard.compress(content))
    assert _texts(tmp_path / "b.txt.zst") == lines


def test_every_range_size_gives_every_line_once(tmp_path, monkeypatch):
    generator = random.Random(0)
    path = tmp_path / "a.txt"
    for unit_bytes in range(1, 51):
        lines = [
            bytes(generator.choices(b"xy ", k=generator.randrange(12)))
            for _ in range(30)
        ]
        end = generator.choice([b"\n", b"\r\n"])
        content = end.join(lines) + generator.choice([b"", end])
        path.write_bytes(content)
        plain = content.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
        monkeypatch.setattr(text_files, "UNIT_BYTES", unit_bytes)
        units = text_files.list_units(_config(path))
        assert len(units) == -(-len(content) // unit_bytes)
        assert _read(_config(path), units) == plain
        # Long lines too; they are in the unit in which they start.
        monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 5)
        counts = cleaning.Counts()
        pieces = _read(_config(path), units, counts)
        assert b"".join(pieces) == b"".join(plain)
        assert len(pieces) == len(plain) + counts.documents_split
        assert max(map(len, pieces)) <= 5
        monkeypatch.undo()


def test_small_files_share_a_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "UNIT_BYTES", 10)
    for name, size in {"a": 4, "b": 6, "c": 1, "d": 25, "e": 5}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    units = text_files.list_units(_config(tmp_path / "*"))
    names = [
        [(os.path.basename(p.path), p.start, p.stop) for p in unit.pieces]
        for unit in units
    ]
    assert names == [
        [("a", 0, 4), ("b", 0, 6)],
        [("c", 0, 1)],
        [("d", 0, 10)],
        [("d", 10, 20)],
        [("d", 20, 25), ("e", 0, 5)],
    ]
    # A file that is a document is never cut in ranges.
    units = text_files.list_units(_config(tmp_path / "d", document="file"))
    assert [unit.pieces for unit in units] == [
        (documents.Piece(str(tmp_path / "d"), 0, 25),)
    ]


@pytest.mark.parametrize(
    ("document", "name"),
    [("line", "a.txt.gz"), ("file", "a.txt"), ("line", "a.txt.zst")],
)
def test_a_long_document_is_never_in_memory(tmp_path, document, name):
    content = b"word " * 2_000_000 + "\u4f60".encode() * 2_000_000
    opens = {"gz": gzip.open, "zst": zstandard.open}
    with opens.get(name[6:], open)(tmp_path / name, "wb") as file:
        file.write(content)
    data = _config(tmp_path / name, document=document)
    counts = cleaning.Counts()
    (unit,) = text_files.list_units(data)
    (piece,) = unit.pieces
    num_bytes = num_documents = 0
    tracemalloc.start()
    try:
        for raw, *_ in text_files.read(data, piece, counts):
            assert len(raw) <= documents.MAX_DOCUMENT_BYTES
            raw.decode()
            num_bytes += len(raw)
            num_documents += 1
        assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
    finally:
        tracemalloc.stop()
    assert num_bytes == len(content)
    assert num_documents == counts.documents_split + 1 == 16


def test_globs(tmp_path, monkeypatch):
    for name in ("b/2.txt", "b/1.txt", "a/3.txt", "a/deep/4.txt", "x[1].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    assert _texts(tmp_path / "*/*.txt") == [b"a/3.txt", b"b/1.txt", b"b/2.txt"]
    assert _texts(tmp_path / "a" / "**") == [b"a/3.txt", b"a/deep/4.txt"]
    assert _texts(tmp_path / "x[1].txt") == [b"x[1].txt"]
    monkeypatch.setenv("HOME", str(tmp_path / "b"))
    assert _texts("~/*.txt") == [b"b/1.txt", b"b/2.txt"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            {"test_path": "a.txt"},
            r"a\.txt is in data\.path and in data\.test_path; a test on",
        ),
        (
            {"unlabeled_path": "*"},
            r"data\.unlabeled_path; .* an unlabelled file that is the label",
        ),
        (
            {"test_path": "b.txt", "unlabeled_path": "*b*"},
            r"b\.txt is in data\.unlabeled_path and in data\.test_path",
        ),
    ],
)
def test_a_file_is_in_one_split(tmp_path, paths, message):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("text\n")
    full = {name: str(tmp_path / path) for name, path in paths.items()}
    _assert_refused(tmp_path / "a.txt", message, **full)


def _assert_refused(path, message, **fields):
    with pytest.raises(ValueError, match=message):
        text_files.list_units(_config(path, **fields))


def test_paths_without_text(tmp_path):
    good = tmp_path / "good.txt"
    good.write_text("text\n")
    _assert_refused(tmp_path / "*.csv", r"data\.path=.* matches no file")
    _assert_refused(
        good, r"data\.test_path=.* matches no file", test_path="nothing"
    )
    _assert_refused(
        "gs://bucket/a.txt", "data.path=gs://bucket/a.txt lies in an obj"
    )
    _assert_refused(tmp_path, r"is a directory; use '.*\*\.txt'")
    for name in "ab":
        (tmp_path / f"{name}.empty").write_bytes(b"")
    _assert_refused(tmp_path / "*.empty", r"no text: 2 file\(s\), all empty")
    _assert_refused(
        good, r"data\.test_path=.*empty", test_path=f"{tmp_path}/*.empty"
    )
    # Some empty files among others are fine.
    assert _texts(tmp_path / "*") == [b"text"]


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    os.symlink(tmp_path / "gone", tmp_path / "link.txt")
    _assert_refused(
        tmp_path / "*.txt", r"link\.txt cannot be read: No such file"
    )
    os.mkfifo(tmp_path / "pipe")
    _assert_refused(tmp_path / "pipe", "pipe is not a regular file")
    (tmp_path / "secret").write_text("text")
    # A superuser may read everything, so permission is taken away by hand.
    monkeypatch.setattr(os, "access", lambda *_: False)
    _assert_refused(
        tmp_path / "secret", "secret cannot be read: permission denied"
    )


def test_a_file_that_shrinks_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some text\n")
    data = _config(path)
    units = text_files.list_units(data)
    path.write_text("some")
    with pytest.raises(ValueError, match="has become shorter"):
        _read(data, units)
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        _read(data, units)


def test_fingerprint_knows_content_but_not_place(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "UNIT_BYTES", 4)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("one two three\n")
    results = [
        text_files.fingerprint(
            text_files.list_units(_config(tmp_path / folder / "*"))
        )
        for folder in ("here", "there")
    ]
    assert results[0] == results[1]
    assert [f["size"] for f in results[0]] == [14]
    (tmp_path / "there" / "a").write_text("one two THREE\n")
    units = text_files.list_units(_config(tmp_path / "there" / "*"))
    assert text_files.fingerprint(units) != results[0]


def test_other_formats_are_known_by_their_content(tmp_path):
    path = tmp_path / "text.log"
    path.write_bytes(gzip.compress(b"one\ntwo\n"))
    assert _texts(path) == [b"one", b"two"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "one")
    with pytest.raises(ValueError, match=r"text\.log is a zip archive.*unzip"):
        _texts(path)
    path.write_bytes(b"one\rtwo\rthree")
    with pytest.raises(ValueError, match="carriage returns alone.*tr"):
        _texts(path)
    path.write_bytes(b"one\rtwo\nthree\r\n")
    assert len(_texts(path)) == 2
    for encoding, pack in (("utf-16-le", bytes), ("utf-16-be", gzip.compress)):
        path.write_bytes(pack("\ufeffsome text\n".encode(encoding)))
        with pytest.raises(ValueError, match="is UTF-16.* iconv -f utf-16"):
            _texts(path)
