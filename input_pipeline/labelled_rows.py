"""Labelled documents to rows, and how such a row is stored.

A row is k chunks of L slots. A document is cut into pieces of at most L slots,
all of one row, none across two chunks: so the encoder sees rows of L as in
pretraining, and a long document is read whole. Stored are R = k * L slots (see
`packing`), T numbers that say which document each segment belongs to, and S
labels; both count from 1, and 0 = unused.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import order, packing

# Packed together are this many documents, or as many as fill so many rows; the
# work grows with its square.
_WINDOW, _WINDOW_ROWS = 512, 32


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parts of a stored row."""

    length: int  # L
    chunks: int  # k
    num_documents: int  # S

    @classmethod
    def of(cls, config: schema.Config, num_documents: int = 0) -> Self:
        """The configured layout; `num_documents` = 0: as many as have room.

        One document a row where `finetune.packing` says so.
        """
        length = config.data.sequence_length
        chunks = config.finetune.pieces_per_row
        if config.finetune.packing == "document":
            num_documents = 1
        return cls(length, chunks, num_documents or chunks * length)

    @property
    def slots(self) -> int:
        """R."""
        return self.chunks * self.length

    @property
    def segments(self) -> int:
        """T: every document has one piece that may share its chunk."""
        return self.num_documents + self.chunks

    @property
    def width(self) -> int:
        """Numbers of a stored row."""
        return self.slots + self.segments + self.num_documents


@dataclasses.dataclass
class _Row:
    """A row that is being filled: pieces by chunk, with their document."""

    chunks: list[list[tuple[int, np.ndarray]]]
    free: list[int]
    labels: list[int]

    def place(self, pieces: Sequence[np.ndarray], limit: int) -> list[int]:
        """A chunk for every piece, the fullest that has room; or []."""
        free, chosen = self.free.copy(), []
        if len(self.labels) == limit:
            return []
        for piece in pieces:
            fitting = [i for i, room in enumerate(free) if room >= len(piece)]
            if not fitting:
                return []
            chosen.append(min(fitting, key=free.__getitem__))
            free[chosen[-1]] -= len(piece)
        return chosen

    def add(
        self, pieces: Sequence[np.ndarray], chosen: Sequence[int], label: int
    ) -> None:
        self.labels.append(label)
        for piece, chunk in zip(pieces, chosen, strict=True):
            self.chunks[chunk].append((len(self.labels), piece))
            self.free[chunk] -= len(piece)


def pack(
    documents: Sequence[tuple[np.ndarray, int]],
    layout: Layout,
    *,
    wrap: Callable[[np.ndarray], np.ndarray],
    num_wrapping: int,
    dtype: np.dtype,
) -> tuple[np.ndarray, packing.RowCounts]:
    """Stored rows, `dtype` [rows, width], in a fixed order.

    Args:
      documents: (ids int32 [tokens], class) each; those without tokens are
        left out.
      layout: of the rows; what exceeds k pieces of a document is cut.
      wrap: adds the start and end tokens to a piece.
      num_wrapping: how many slots `wrap` adds.
      dtype: from `packing.slot_dtype`.
    """
    counts = packing.RowCounts()
    rows: list[_Row] = []
    window: list[tuple[list[np.ndarray], int]] = []
    packed = 0  # Slots used in `rows`.
    # Shuffled: a file that is sorted by label would give rows of one label.
    for number in order.shuffled(len(documents), 0):
        ids, label = documents[number]
        pieces = _pieces(
            ids, layout, wrap=wrap, num_wrapping=num_wrapping, counts=counts
        )
        if pieces:
            window.append((pieces, label))
        waiting = counts.slots_used - packed
        if len(window) >= _WINDOW and waiting >= _WINDOW_ROWS * layout.slots:
            rows += _best_rows(window, layout)
            window, packed = [], counts.slots_used
    rows += _best_rows(window, layout)
    counts.rows = len(rows)
    stored = np.zeros([len(rows), layout.width], dtype)
    for target, row in zip(stored, rows, strict=True):
        _store(target, row, layout)
    return stored, counts


def num_documents(
    documents: Sequence[np.ndarray],
    layout: Layout,
    *,
    wrap: Callable[[np.ndarray], np.ndarray],
    num_wrapping: int,
) -> int:
    """S for text like these documents: what a row takes, and a quarter more."""
    counts = packing.RowCounts()
    pieces = [
        _pieces(
            ids, layout, wrap=wrap, num_wrapping=num_wrapping, counts=counts
        )
        for ids in documents
    ]
    rows = _best_rows([(item, 0) for item in pieces if item], layout)
    most = max((len(row.labels) for row in rows), default=1)
    # So few documents may not fill a single row.
    mean = len(documents) * layout.slots // max(1, counts.slots_used)
    return min(max(most, mean) * 5 // 4, layout.num_documents)


def unpack(rows: tf.Tensor, layout: Layout) -> dict[str, tf.Tensor]:
    """Stored rows [B, width] to a batch.

    Returns:
      `token_ids`, `segment_ids`, `position_ids`, `document_ids` (1 to S; 0 =
      padding), int32 [B, R]; `labels` int32 and `label_weights` float32
      [B, S], both 0 where there is no document.
    """
    slots, owners, labels = tf.split(
        rows, [layout.slots, layout.segments, layout.num_documents], axis=1
    )
    batch = packing.unpack(slots)
    # Segment 0 is padding and belongs to document 0.
    owners = tf.pad(tf.cast(owners, tf.int32), [[0, 0], [1, 0]])
    labels = tf.cast(labels, tf.int32)
    return {
        **batch,
        "document_ids": tf.gather(owners, batch["segment_ids"], batch_dims=1),
        "labels": tf.maximum(labels - 1, 0),
        "label_weights": tf.cast(labels > 0, tf.float32),
    }


def _pieces(
    ids: np.ndarray,
    layout: Layout,
    *,
    wrap: Callable[[np.ndarray], np.ndarray],
    num_wrapping: int,
    counts: packing.RowCounts,
) -> list[np.ndarray]:
    room = layout.length - num_wrapping
    kept = min(len(ids), room * layout.chunks)
    pieces = [wrap(ids[i : min(i + room, kept)]) for i in range(0, kept, room)]
    counts.documents += 1
    counts.documents_without_tokens += not pieces
    counts.tokens_read += len(ids)
    counts.tokens_kept += kept
    counts.tokens_cut += len(ids) - kept
    counts.segments += len(pieces)
    counts.slots_used += sum(map(len, pieces))
    return pieces


def _best_rows(
    documents: list[tuple[list[np.ndarray], int]], layout: Layout
) -> list[_Row]:
    """First-fit decreasing: the longest documents first.

    Short ones fit anywhere and keep their order: sorted, the shortest would
    come together in rows of too many documents.
    """
    rows: list[_Row] = []
    short = layout.length // 4
    for pieces, label in sorted(
        documents, key=lambda item: -max(short, sum(map(len, item[0])))
    ):
        size = sum(map(len, pieces))
        for row in rows:
            if sum(row.free) < size:
                continue
            if chosen := row.place(pieces, layout.num_documents):
                break
        else:
            row = _Row(
                chunks=[[] for _ in range(layout.chunks)],
                free=[layout.length] * layout.chunks,
                labels=[],
            )
            rows.append(row)
            chosen = list(range(len(pieces)))
        row.add(pieces, chosen, label)
    return rows


def _store(target: np.ndarray, row: _Row, layout: Layout) -> None:
    segments = 0
    for number, chunk in enumerate(row.chunks):
        start = number * layout.length
        slots = target[start : start + layout.length]
        packing.fill(slots, [piece for _, piece in chunk])
        for owner, _ in chunk:
            target[layout.slots + segments] = owner
            segments += 1
    first = layout.slots + layout.segments
    target[first : first + len(row.labels)] = np.array(row.labels) + 1
