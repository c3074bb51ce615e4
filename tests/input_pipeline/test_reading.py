"""Passes over documents: clean, in order, by role, on any number of cores."""

import pytest

from input_pipeline import reading


@pytest.mark.parametrize(
    ("number", "limit", "sizes"),
    [
        (0, 0, []),
        (1, 0, [1]),
        (512, 0, [512]),
        (513, 0, [512, 1]),
        (600, 1, [1]),
        (600, 512, [512]),
        (600, 513, [512, 1]),
        (3, 9, [3]),
    ],
)
def test_batches(number, limit, sizes):
    batches = list(reading.in_batches(range(number), limit))
    assert [len(batch) for batch in batches] == sizes
    items = [item for batch in batches for item in batch]
    assert items == list(range(min(number, limit or number)))
