"""Documents to rows of L slots, and how a slot is stored.

A stored slot is the id plus one flag bit that says: a new segment (one piece
of one document) starts here. Padding is id 0 without the flag. With up to
32,768 ids a slot takes 16 bits, else 32.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

_SMALL_VOCABULARY = 2**15


@dataclasses.dataclass
class RowCounts:
    """What became of the tokens; `tokens_read` = kept + cut."""

    documents: int = 0
    documents_without_tokens: int = 0  # Nothing but punctuation, for example.
    tokens_read: int = 0
    tokens_kept: int = 0
    tokens_cut: int = 0  # Behind slot L, with one document a row.
    rows: int = 0
    segments: int = 0
    slots_used: int = 0  # Tokens kept, start and end tokens.
    tokens_unknown: int = 0
    documents_long: int = 0  # Of 20 characters or more.
    documents_long_unread: int = 0  # Of these, not split into words.

    def add(self, other: "RowCounts") -> None:
        """Sums every field in place."""
        for field in dataclasses.fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)


def slot_dtype(vocabulary_size: int) -> np.dtype:
    """The unsigned integer that holds an id and the flag."""
    small = vocabulary_size <= _SMALL_VOCABULARY
    return np.dtype("<u2") if small else np.dtype("<u4")


def pack(
    documents: Iterable[np.ndarray],
    *,
    policy: str,
    length: int,
    wrap: Callable[[np.ndarray], np.ndarray],
    num_wrapping: int,
    dtype: np.dtype,
) -> tuple[np.ndarray, RowCounts]:
    """Rows of stored slots, `dtype` [rows, L], in a fixed order.

    Args:
      documents: ids, int32 [tokens] each.
      policy: "document" (one a row, cut at L) or "fill": pieces of at most L
        slots, each into the fullest row that still has room for it, the
        longest first (best-fit decreasing), so that whole documents stay
        whole and next to nothing is padded.
      length: L.
      wrap: adds the start and end tokens to a piece.
      num_wrapping: how many slots `wrap` adds.
      dtype: from `slot_dtype`.
    """
    counts = RowCounts()
    room = length - num_wrapping
    pieces = []
    for ids in documents:
        counts.documents += 1
        counts.documents_without_tokens += not len(ids)
        counts.tokens_read += len(ids)
        stop = len(ids) if policy == "fill" else room
        counts.tokens_cut += max(0, len(ids) - stop)
        pieces += [
            wrap(ids[start : start + room])
            for start in range(0, min(len(ids), stop), room)
        ]
    lengths = [len(piece) for piece in pieces]
    if policy == "fill":
        groups = best_fit(lengths, length)
    else:
        groups = [[number] for number in range(len(pieces))]
    rows = np.zeros([len(groups), length], dtype)
    for row, group in zip(rows, groups, strict=True):
        fill(row, [pieces[number] for number in group])
    counts.rows = len(groups)
    counts.segments = len(pieces)
    counts.slots_used = sum(lengths)
    counts.tokens_kept = sum(lengths) - num_wrapping * len(pieces)
    return rows, counts


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups of indices whose lengths sum to at most `capacity` each.

        best_fit([3, 5, 4, 1], 8)  ->  [[1, 0], [2, 3]]

    Longest first; equal lengths and equally full groups in order of arrival.
    """
    groups: list[list[int]] = []
    # waiting[space]: groups with that many free slots, the oldest first.
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        space = next(
            (s for s in range(length, capacity) if waiting[s]), capacity
        )
        if waiting[space]:
            group = waiting[space].pop(0)
        else:
            group = len(groups)
            groups.append([])
        groups[group].append(index)
        waiting[space - length].append(group)
    return groups


def unpack(slots: tf.Tensor) -> dict[str, tf.Tensor]:
    """Stored rows to model inputs.

    Args:
      slots: uint16 or uint32 [B, L], from `pack`.

    Returns:
      `token_ids`, `segment_ids` (1, 2, ...; 0 = padding) and `position_ids`
      (inside the segment; 0 for padding), each int32 [B, L].
    """
    flag = 1 << (slots.dtype.size * 8 - 1)
    starts = slots >= tf.constant(flag, slots.dtype)
    token_ids = tf.cast(slots & tf.constant(flag - 1, slots.dtype), tf.int32)
    # Padding is id 0 behind the last segment; no text has id 0.
    is_text = tf.cast(token_ids > 0, tf.int32)
    # Segments of the whole batch at once; every row opens a new one.
    opens = starts | (tf.range(starts.shape[1]) == 0)
    first = tf.where(tf.reshape(opens, [-1]))[:, 0]  # int64 [S]
    after = tf.concat([first[1:], [tf.size(opens, tf.int64)]], 0)
    # Number and position of every slot in one range: number * 2^32 + position.
    base = tf.range(tf.size(first, tf.int64)) * 2**32
    both = tf.ragged.range(base, base + after - first).flat_values
    both = tf.reshape(both, tf.shape(starts))
    number = tf.cast(tf.bitwise.right_shift(both, 32), tf.int32)
    return {
        "token_ids": token_ids,
        "segment_ids": (number - number[:, :1] + 1) * is_text,
        "position_ids": tf.cast(both & (2**32 - 1), tf.int32) * is_text,
    }


def fill(row: np.ndarray, pieces: list[np.ndarray]) -> None:
    """Writes pieces into the slots [L] of a row, one behind the other."""
    flag = 1 << (row.dtype.itemsize * 8 - 1)
    start = 0
    for piece in pieces:
        row[start : start + len(piece)] = piece
        row[start] |= flag
        start += len(piece)


def running_maximum(values: tf.Tensor) -> tf.Tensor:
    """The largest of the values so far, [B, n], in log2(n) passes."""
    length = values.shape[1]
    shift = 1
    while shift < length:
        shifted = tf.pad(values[:, :-shift], [[0, 0], [shift, 0]])
        values = tf.maximum(values, shifted)
        shift *= 2
    return values
