import random
import unicodedata

import pytest

from input_pipeline import cleaning


def _clean(raw):
    counts = cleaning.Counts()
    text = cleaning.clean(raw, counts)
    assert counts.bytes_read == len(raw)
    assert counts.bytes_read == counts.bytes_kept + counts.bytes_dropped
    assert counts.documents_read == 1
    assert counts.documents_kept + counts.documents_dropped_empty == 1
    assert bool(text) == bool(counts.documents_kept)
    return text, counts


@pytest.mark.parametrize(
    ("raw", "text", "dropped"),
    [
        (b"plain", "plain", {}),
        (b"a\tb\nc\n", "a\tb\nc\n", {}),
        ("h\u00e9 \u4f60\U0001f600".encode(), "h\u00e9 \u4f60\U0001f600", {}),
        # Bad UTF-8: a stray byte, a cut character, a surrogate, "/" too long.
        (b"a\xffb", "a\ufffdb", {"invalid_utf8": 1}),
        (b"a\xe4\xbd", "a\ufffd", {"invalid_utf8": 2}),
        (b"a\xed\xa0\x80", "a\ufffd\ufffd\ufffd", {"invalid_utf8": 3}),
        (b"a\xc0\xaf", "a\ufffd\ufffd", {"invalid_utf8": 2}),
        ("a\ufffd".encode(), "a\ufffd", {}),
        # Control characters: C0, DEL, and C1, which has two bytes.
        (b"nul\x00byte", "nulbyte", {"control": 1}),
        (b"a\x0b\x0c\x1f\x7fb", "ab", {"control": 4}),
        ("a\u0080\u0085\u009fb".encode(), "a   b", {"control": 6}),
        ("a\u00a0b".encode(), "a\u00a0b", {}),
        # Byte order marks, in front and elsewhere.
        ("\ufeffa\ufeffb".encode(), "ab", {"byte_order_mark": 6}),
        # Line ends.
        (b"a\r\nb\r\n", "a\nb\n", {"carriage_return": 2}),
        (b"a\rb\r", "a\nb\n", {}),
        (b"a\r\r\nb", "a\n\nb", {"carriage_return": 1}),
        (b"a\r\x00\nb", "a\nb", {"carriage_return": 1, "control": 1}),
        # Nothing left.
        (b"", "", {}),
        (b" \t\r\n ", "", {"carriage_return": 1, "empty": 4}),
        ("\u3000\u00a0".encode(), "", {"empty": 5}),
        (b"\x00\x01", "", {"control": 2}),
        (b"\xff \xff", "", {"invalid_utf8": 2, "empty": 1}),
    ],
)
def test_cases(raw, text, dropped):
    result, counts = _clean(raw)
    assert result == text
    assert {
        name.removeprefix("bytes_dropped_"): count
        for name, count in counts.to_dict().items()
        if name.startswith("bytes_dropped_") and count
    } == dropped


def test_fuzz():
    generator = random.Random(0)
    alphabet = [
        *(b"\x00", b"\x07", b"\r", b"\n", b"\r\n", b"\t", b" ", b"\x7f"),
        *(b"a", b"word", b"\xff", b"\xc3", b"\xe4\xbd", b"\xed\xa0\x80"),
        *(
            c.encode()
            for c in "\ufeff\u0085\u009f\u00e9e\u0301\ufffd\U0001f600"
        ),
    ]
    total = cleaning.Counts()
    for i in range(2_000):
        length = generator.randrange(40)
        raw = (
            generator.randbytes(length)
            if i % 2
            else b"".join(generator.choices(alphabet, k=length))
        )
        text, counts = _clean(raw)
        total += counts
        text.encode()  # Raises on a surrogate.
        assert not any(
            unicodedata.category(c) == "Cc" and c not in "\t\n" for c in text
        )
        assert "\ufeff" not in text
        if text:
            # What is kept, found another way.
            kept = "".join(
                c
                for c in raw.decode(errors="ignore")
                if c in "\t\n\r"
                or (c != "\ufeff" and unicodedata.category(c) != "Cc")
            )
            num_returns = counts.bytes_dropped_carriage_return
            assert counts.bytes_kept == len(kept.encode()) - num_returns
    assert total.documents_read == 2_000
    never_seen = {name for name, n in total.to_dict().items() if not n}
    assert never_seen == {"documents_split"}
