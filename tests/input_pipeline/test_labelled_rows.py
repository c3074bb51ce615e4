"""Labelled rows: nothing lost, pieces stay in their chunk, labels fit."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from input_pipeline import labelled_rows

START, END = 3, 4


def _layout(*, length=8, chunks=3, num_documents=5):
    return labelled_rows.Layout(length, chunks, num_documents)


def _wrap(ids):
    return np.concatenate([[START], ids, [END]]).astype(np.int32)


def _documents(*lengths):
    """Document n has tokens 100 n + 10, 100 n + 11, ... and class n % 3."""
    return [
        (np.arange(length, dtype=np.int32) + 100 * n + 10, n % 3)
        for n, length in enumerate(lengths)
    ]


def _pack(documents, layout, *, wrapped=False):
    return labelled_rows.pack(
        documents,
        layout,
        wrap=_wrap if wrapped else lambda ids: ids,
        num_wrapping=2 if wrapped else 0,
        dtype=np.dtype("<u2"),
    )


def _unpack(rows, layout):
    batch = labelled_rows.unpack(tf.constant(rows), layout)
    return {key: value.numpy() for key, value in batch.items()}


def _read(rows, layout):
    """(tokens without start and end, class) of every document, found again."""
    batch = _unpack(rows, layout)
    found = []
    for row in range(len(rows)):
        owners = batch["document_ids"][row]
        for number in range(1, int(batch["label_weights"][row].sum()) + 1):
            tokens = batch["token_ids"][row][owners == number]
            label = batch["labels"][row, number - 1]
            found.append((tokens[tokens >= 10], int(label)))
    return found


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("number", range(2))
def test_no_token_is_lost_and_none_changes_its_document(number, wrapped):
    layout = _layout()
    lengths = np.random.default_rng(number).integers(0, 19, 40)
    documents = _documents(*lengths)
    rows, counts = _pack(documents, layout, wrapped=wrapped)
    expected = {
        int(ids[0]): (list(ids), label) for ids, label in documents if len(ids)
    }
    found = {
        int(min(ids)): (sorted(ids), label)
        for ids, label in _read(rows, layout)
    }
    assert found == expected
    assert counts.documents == 40
    assert counts.documents_without_tokens == sum(lengths == 0)
    assert counts.tokens_read == counts.tokens_kept == sum(lengths)
    assert counts.rows == len(rows)


def test_golden_row():
    layout = _layout(length=4, chunks=2, num_documents=3)
    rows, _ = _pack(_documents(2, 5), layout)
    flag = 2**15
    # The document of 5 fills a chunk; its rest is beside the one of 2.
    assert rows.tolist() == [
        [
            *(flag + 110, 111, 112, 113),
            *(flag + 114, flag + 10, 11, 0),
            *(1, 1, 2, 0, 0),
            *(2, 1, 0),
        ]
    ]


@pytest.mark.parametrize(("length", "cut"), [(23, 0), (24, 0), (25, 1)])
def test_what_exceeds_a_row_is_cut_and_counted(length, cut):
    rows, counts = _pack(_documents(length), _layout())
    assert (len(rows), counts.tokens_cut) == (1, cut)
    assert counts.tokens_kept + counts.tokens_cut == length


def test_a_row_takes_no_more_documents_than_it_has_labels():
    layout = _layout(num_documents=5)
    rows, _ = _pack(_documents(*[1] * 11), layout)
    assert _unpack(rows, layout)["label_weights"].sum(1).tolist() == [5, 5, 1]


def test_no_segment_crosses_a_chunk():
    layout = _layout()
    rows, _ = _pack(_documents(*range(1, 25)), layout)
    segments = _unpack(rows, layout)["segment_ids"].reshape(-1, 3, 8)
    for row in segments:
        chunks = [set(chunk) - {0} for chunk in row]
        assert not set.intersection(chunks[0], chunks[1])
        assert not set.intersection(chunks[1], chunks[2])


def test_a_row_of_padding_has_no_document():
    layout = _layout()
    for documents in ([], _documents(0, 0)):
        rows, _ = _pack(documents, layout)
        assert rows.shape == (0, layout.width)
    batch = _unpack(np.zeros([2, layout.width], "<u2"), layout)
    assert not any(value.any() for value in batch.values())
    assert batch["document_ids"].shape == (2, 24)
    assert batch["labels"].shape == batch["label_weights"].shape == (2, 5)
    for key, value in batch.items():
        assert value.dtype == (
            np.float32 if key == "label_weights" else np.int32
        )


def _short(number, *, longest=24, seed=0):
    """Documents of 2 to `longest` tokens, the class by the place: sorted."""
    lengths = np.random.default_rng(seed).integers(2, longest + 1, number)
    return [
        (np.full(length, 10, np.int32), 4 * n // number)
        for n, length in enumerate(lengths)
    ]


def _num_documents(documents, layout):
    return labelled_rows.num_documents(
        [ids for ids, _ in documents],
        layout,
        wrap=lambda ids: ids,
        num_wrapping=0,
    )


@pytest.mark.parametrize(("length", "longest"), [(32, 100), (64, 24), (256, 4)])
def test_rows_of_short_documents_are_full(length, longest):
    documents = _short(6_000, longest=longest)
    layout = _layout(length=length, chunks=4, num_documents=4 * length)
    most = _num_documents(documents[:512], layout)
    layout = _layout(length=length, chunks=4, num_documents=most)
    rows, counts = _pack(documents, layout)
    assert counts.slots_used > 0.93 * len(rows) * layout.slots
    # No more room for documents than rows of this text need.
    assert most < 6 * counts.documents / len(rows)
    labels = _unpack(rows, layout)["labels"]
    weights = _unpack(rows, layout)["label_weights"]
    mixed = [
        len(set(row[w > 0])) > 1 for row, w in zip(labels, weights, strict=True)
    ]
    assert np.mean(mixed) > 0.6


def test_room_for_documents():
    layout = _layout(length=16, chunks=4, num_documents=64)
    for lengths, expected in [
        ([64] * 9, 1),
        ([16] * 80, 5),
        ([1] * 640, 64),  # No more than slots.
        ([4] * 3, 20),  # Three of them do not fill a row.
        ([], 1),
        ([0, 0], 64),
    ]:
        assert _num_documents(_documents(*lengths), layout) == expected
    alone = dataclasses.replace(layout, num_documents=1)
    assert _num_documents(_documents(*[4] * 9), alone) == 1


def test_the_configured_layout():
    config = schema.Config()
    layout = labelled_rows.Layout.of(config)
    assert (layout.slots, layout.num_documents) == (1024, 1024)
    assert labelled_rows.Layout.of(config, 7).num_documents == 7
    alone = schema.Config(
        finetune=schema.FinetuneConfig(packing="document", pieces_per_row=1)
    )
    layout = labelled_rows.Layout.of(alone, 7)
    assert (layout.slots, layout.num_documents) == (256, 1)
    assert layout.width == 256 + 2 + 1
