"""Cuts texts of any length into rows for the encoder, inside a graph.

N texts, L slots, D width. A ragged tensor [N, (tokens)] holds the ids.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from input_pipeline import strings
from trainer.modeling import encoder as encoders

# Rows that the encoder gets at once, so that memory does not grow with N.
ROWS_AT_ONCE = 64


def cut(
    ids: tf.RaggedTensor, *, room: int
) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Cuts documents into pieces of `room` tokens; the last may be shorter.

        cut([[1, 2, 3], [], [4]], room=2)  ->  [[1, 2], [3], [4]], [0, 0, 2]

    As the policy "fill" of `input_pipeline.packing` cuts them.

    Args:
      ids: int32 [N, (tokens)].
      room: L less the slots of start and end.

    Returns:
      int32 [pieces, (tokens)] in order, and int32 [pieces], the document of
      each; a document without tokens has none.
    """
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    numbers = (lengths + room - 1) // room
    owners = tf.repeat(tf.range(tf.size(lengths)), numbers)
    first = tf.gather(tf.cumsum(numbers, exclusive=True), owners)
    start = (tf.range(tf.size(owners)) - first) * room
    sizes = tf.minimum(tf.gather(lengths, owners) - start, room)
    pieces = tf.RaggedTensor.from_row_lengths(
        ids.values, tf.cast(sizes, tf.int64), validate=False
    )
    return pieces, owners


def batch(
    pieces: tf.RaggedTensor, special: strings.SpecialIds, *, length: int = 0
) -> dict[str, tf.Tensor]:
    """The encoder's input, one piece a row, as training packs it.

    Args:
      pieces: int32 [n, (tokens)].
      special: start and end ids; each piece stands between them.
      length: slots of a row; 0 = those of the longest piece.

    Returns:
      `token_ids`, `segment_ids` (1; 0 = padding), `position_ids` (0 for
      padding), int32 [n, slots] each.
    """
    if special.num_wrapping:
        ends = [
            tf.fill([pieces.nrows(), 1], index)
            for index in (special.start, special.end)
        ]
        pieces = tf.concat([ends[0], pieces, ends[1]], axis=1)
    lengths = tf.cast(pieces.row_lengths(), tf.int32)
    # At least one slot, which holds padding.
    width = length or tf.reduce_max(tf.concat([lengths, [1]], axis=0))
    tokens = pieces.to_tensor(0)
    tokens = tf.pad(tokens, [[0, 0], [0, width - tf.shape(tokens)[1]]])
    is_text = tf.sequence_mask(lengths, width, tf.int32)
    return {
        "token_ids": tokens,
        "segment_ids": is_text,
        "position_ids": is_text * tf.range(width),
    }


def in_groups(
    rows: tf.RaggedTensor,
    function: Callable[[tf.RaggedTensor], Sequence[tf.Tensor]],
    *,
    size: int,
    like: Sequence[tf.TensorSpec],
) -> list[tf.Tensor]:
    """Applies a function to at most `size` rows at a time.

    Args:
      rows: int32 [n, (tokens)]; those of similar length go together.
      function: int32 [m, (tokens)] to tensors [m, ...], row by row.
      size: the largest m.
      like: shape [None, ...] and type of every tensor.

    Returns:
      Its tensors for all rows, [n, ...], in their order.
    """
    order = tf.argsort(rows.row_lengths(), stable=True)
    rows = tf.gather(rows, order)
    # Without rows there is one empty group, which gives the shapes.
    number = tf.maximum(1, (tf.size(order) + size - 1) // size)
    arrays = [
        tf.TensorArray(
            spec.dtype, number, element_shape=spec.shape, infer_shape=False
        )
        for spec in like
    ]

    def work(group: tf.Tensor, *done: tf.TensorArray) -> tuple[tf.Tensor, ...]:
        results = function(rows[group * size : (group + 1) * size])
        pairs = zip(done, results, strict=True)
        return group + 1, *(array.write(group, x) for array, x in pairs)

    _, *arrays = tf.while_loop(
        lambda group, *_: group < number,
        work,
        [tf.constant(0), *arrays],
        parallel_iterations=1,
    )
    place = tf.argsort(order)
    return [tf.gather(array.concat(), place) for array in arrays]


def embed(
    encoder: encoders.Encoder, ids: tf.RaggedTensor, special: strings.SpecialIds
) -> tf.Tensor:
    """The mean of the final states over all slots of each document.

    The slots of start and end tokens count, as they do for the classifier.

    Args:
      encoder: in float32.
      ids: int32 [N, (tokens)].
      special: start and end ids.

    Returns:
      float32 [N, D]; zeros for a document without tokens.
    """
    width = encoder.model_config.hidden_size

    def sums(pieces: tf.RaggedTensor) -> list[tf.Tensor]:
        rows = batch(pieces, special, length=row_length(encoder))
        is_text = tf.cast(rows["segment_ids"], tf.float32)
        states = encoder(rows) * is_text[:, :, tf.newaxis]
        return [tf.reduce_sum(states, 1), tf.reduce_sum(is_text, 1)]

    room = encoder.sequence_length - special.num_wrapping
    pieces, owners = cut(ids, room=room)
    parts = in_groups(
        pieces,
        sums,
        size=ROWS_AT_ONCE,
        like=[
            tf.TensorSpec([None, width], tf.float32),
            tf.TensorSpec([None], tf.float32),
        ],
    )
    number = tf.cast(ids.nrows(), tf.int32)
    total, weight = (
        tf.math.unsorted_segment_sum(part, owners, number) for part in parts
    )
    return tf.math.divide_no_nan(total, weight[:, tf.newaxis])


def row_length(encoder: encoders.Encoder) -> int:
    """The `length` for `batch`: L if padding is attended to, else 0."""
    if encoder.model_config.attend_padding:
        return encoder.sequence_length
    return 0
