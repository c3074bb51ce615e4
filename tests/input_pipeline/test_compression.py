import gzip
import random
import struct

import pytest
import zstandard

from input_pipeline import compression

NOISE = random.Random(0).randbytes(100_000)


def _zstd(content):
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


PACK = {"gzip": gzip.compress, "zstd": _zstd}


def _read(path):
    with compression.opened(str(path)) as file:
        return file.read()


@pytest.mark.parametrize("how", PACK)
@pytest.mark.parametrize("size", [0, 1, 8_191, 8_192, 8_193, 100_000])
def test_content(tmp_path, how, size):
    pack, content = PACK[how], NOISE[:size]
    path = tmp_path / "a"
    path.write_bytes(pack(content))
    assert compression.kind(str(path)) == how
    assert _read(path) == content
    # What was written one after the other, as by `cat` or in parallel.
    path.write_bytes(pack(content) + pack(b"more"))
    assert _read(path) == content + b"more"


def test_a_frame_to_skip_and_one_without_a_known_size(tmp_path):
    stream = zstandard.ZstdCompressor().compressobj()
    frame = stream.compress(NOISE) + stream.flush()
    skipped = struct.pack("<II", 0x184D2A50, 3) + b"abc"
    path = tmp_path / "a.zst"
    path.write_bytes(skipped + frame + skipped + frame)
    assert _read(path) == NOISE * 2


@pytest.mark.parametrize(
    ("name", "stem", "kind"),
    [
        ("a.txt", "a.txt", ""),
        ("a.txt.GZ", "a.txt", "gzip"),
        ("a.txt.zst", "a.txt", "zstd"),
        ("a.zst.txt", "a.zst.txt", ""),
    ],
)
def test_a_name_tells_where_the_content_does_not(tmp_path, name, stem, kind):
    path = tmp_path / name
    path.write_bytes(b"plain")
    assert compression.stem(str(path)) == str(tmp_path / stem)
    assert compression.kind(str(path)) == kind
    if not kind:
        assert _read(path) == b"plain"


@pytest.mark.parametrize("how", PACK)
@pytest.mark.parametrize("damage", ["cut", "flip", "tail", "plain", "second"])
def test_a_damaged_file_is_an_error(tmp_path, how, damage):
    content = PACK[how](NOISE)
    path = tmp_path / f"bad.{'gz' if how == 'gzip' else 'zst'}"
    path.write_bytes(
        {
            "cut": content[:-100],
            "flip": content[:5_000] + b"????" + content[5_004:],
            "tail": content + b"tail",
            "plain": b"not compressed",
            "second": content + content[:20],
        }[damage]
    )
    with pytest.raises(
        ValueError, match=rf"bad.* is not a complete {how} file: .*{how} --test"
    ):
        _read(path)


def test_a_zip_archive_is_refused(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(b"PK\3\4...")
    with pytest.raises(ValueError, match="a.gz is a zip archive.*unpack"):
        _read(path)
