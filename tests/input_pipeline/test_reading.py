"""Passes over documents: clean, in order, by role, on any number of cores."""

import pytest

from input_pipeline import cleaning, reading, roles, sources
from tests.input_pipeline import conftest as tiny


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


def test_documents_are_clean_and_have_role_and_label(tmp_path):
    records = [*tiny.reviews(50), {"text": " ", "label": "no"}]
    tiny.write(tmp_path / "reviews.jsonl", records)
    config = tiny.labelled_config(tmp_path)
    counts = cleaning.Counts()
    [unit] = sources.list_units(config.data)
    found = list(reading.documents(config, unit, roles.Roles(0.2, 0.1), counts))
    assert [item.label for item in found] == [r["label"] for r in records]
    assert found[-1] == ("empty", "", "no")
    assert {item.role for item in found} >= {"train", "validation", "empty"}
    assert counts.documents_read == 51
    assert found[7].text == records[7]["text"]
