"""Which slots to predict and what stands there instead.

B rows, L slots, P predictions a row, V vocabulary. Every draw is a pure
function of (seed, the row's position in the stream): Philox with the position
as its counter (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
2011). So masks differ in every epoch, replay exactly, and do not depend on
which host or replica draws them.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import order, packing
from input_pipeline import tokenizer as tokenizer_lib

# Lengths of spans: geometric, at most ten (Joshi et al., "SpanBERT", 2020).
_SPAN_STOP_RATE = 0.2
_LONGEST_SPAN = 10
# Keeps validation masks the same in every run, whatever its seed.
EVALUATION_SEED = 20201
_PHILOX = 1
_DRAWS_PER_STEP = 4  # Of 32 bits each.
# Names of draws in ASCII: they keep the draws of one seed apart.
_SLOTS = 0x6D61736B  # A number a slot; one more, for the row's count.
_SPAN_LENGTHS = 0x7370616E
# What a selected slot shows follows from its number too, mixed with these.
_KIND, _WHICH = 0x6B696E64, 0x77686963
_ARC = 0x61726320  # The same for the row's number.


@dataclasses.dataclass(frozen=True, eq=False)
class Masker:
    """Turns unpacked rows into masked-LM batches.

    Attributes:
      config: the section `masking`.
      special: the ids that are not text.
      is_special: bool [V]; never selected, never drawn as a replacement.
      is_continuation: bool [V]; word pieces that continue a word.
      num_predictions: P.
    """

    config: schema.MaskingConfig
    special: tokenizer_lib.SpecialIds
    is_special: np.ndarray
    is_continuation: np.ndarray
    num_predictions: int

    def __call__(
        self,
        rows: dict[str, tf.Tensor],
        *,
        seed: int,
        first_position: tf.Tensor,
        rate: tf.Tensor | float,
    ) -> dict[str, tf.Tensor]:
        """The batch of DESIGN's table.

        Args:
          rows: `token_ids`, `segment_ids`, `position_ids`, int32 [B, L].
          seed: of the run.
          first_position: int64 [], stream position of the first row; the
            rows are neighbours in the stream.
          rate: float [], the share of ordinary tokens to select.
        """
        token_ids = rows["token_ids"]
        num_rows, length = tf.shape(token_ids)[0], token_ids.shape[1]
        bits = _bits(_SLOTS, seed, first_position, num_rows, length + 1)
        ordinary = ~self._special(token_ids)  # [B, L]
        scores = _scores_of(bits)[:, :length]
        if self.config.policy == "whole_word":
            scores = tf.gather(scores, self._words(rows), batch_dims=1)
        if self.config.policy == "span":
            lengths = _bits(
                _SPAN_LENGTHS, seed, first_position, num_rows, length
            )
            scores = _span_scores(
                scores,
                _share(lengths)[:, :length],
                segment_ids=rows["segment_ids"],
                ordinary=ordinary,
            )
        scores = tf.where(ordinary, scores, -1)
        count = _stochastic_count(
            tf.reduce_sum(tf.cast(ordinary, tf.int32), axis=1),
            rate,
            _share(bits[:, length]),
        )
        count = tf.minimum(count, self.num_predictions)
        if self.config.policy == "whole_word":
            positions, weights = _whole_words(
                self._words(rows),
                scores,
                count,
                _share(
                    order.mix(bits[:, length] ^ tf.constant(_ARC, tf.uint32))
                ),
                num_predictions=self.num_predictions,
            )
        else:
            positions, weights = _select(
                scores, count, num_predictions=self.num_predictions
            )
        return self._replace(rows, bits, positions=positions, weights=weights)

    def _special(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Bool, of the same shape; comparing is faster than looking up."""
        special = tf.zeros_like(token_ids, tf.bool)
        edges = np.diff(self.is_special, prepend=False, append=False)
        for first, after in np.flatnonzero(edges).reshape(-1, 2):
            special |= (token_ids >= first) & (token_ids < after)
        return special

    def _words(self, rows: dict[str, tf.Tensor]) -> tf.Tensor:
        """Number of the word that a slot belongs to, int32 [B, L]."""
        special = self._special(rows["token_ids"])
        starts = ~tf.gather(self.is_continuation, rows["token_ids"])
        starts |= rows["position_ids"] == 0
        # A long document may be cut inside a word: its rest then follows
        # the start token, and is a word of its own.
        starts |= tf.pad(special[:, :-1], [[0, 0], [1, 0]])
        return tf.cumsum(tf.cast(starts, tf.int32), axis=1) - 1

    def _replace(
        self,
        rows: dict[str, tf.Tensor],
        bits: tf.Tensor,
        *,
        positions: tf.Tensor,
        weights: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Writes [MASK], a random token or nothing into selected slots."""
        token_ids = rows["token_ids"]
        labels = tf.gather(token_ids, positions, batch_dims=1)  # [B, P]
        bits = tf.gather(bits, positions, batch_dims=1)
        kind, which = (
            _share(order.mix(bits ^ tf.constant(name, tf.uint32)))
            for name in (_KIND, _WHICH)
        )
        ordinary_ids = np.flatnonzero(~self.is_special).astype(np.int32)
        number = tf.cast(which * len(ordinary_ids), tf.int32)
        random_ids = tf.gather(
            ordinary_ids, tf.minimum(number, len(ordinary_ids) - 1)
        )
        mask_rate = self.config.mask_rate
        random_rate = self.config.random_rate
        shown = tf.where(kind < mask_rate + random_rate, random_ids, labels)
        shown = tf.where(kind < mask_rate, self.special.mask, shown)
        used = weights > 0
        # The P positions of a row differ: an unused entry writes what is there.
        num_rows, length = tf.shape(token_ids)[0], token_ids.shape[1]
        slots = tf.range(num_rows)[:, tf.newaxis] * length + positions
        masked = tf.tensor_scatter_nd_update(
            tf.reshape(token_ids, [-1]),
            tf.reshape(slots, [-1, 1]),
            tf.reshape(tf.where(used, shown, labels), [-1]),
        )
        return {
            "token_ids": tf.reshape(masked, [-1, length]),
            "segment_ids": rows["segment_ids"],
            "position_ids": rows["position_ids"],
            "mask_positions": tf.where(used, positions, 0),
            "mask_labels": tf.where(used, labels, 0),
            "mask_weights": weights,
        }


def rate_at(config: schema.MaskingConfig, step: tf.Tensor) -> tf.Tensor:
    """The select rate at a step, float32 []: linear, then constant."""
    if config.last_rate == config.select_rate:
        return tf.constant(config.select_rate, tf.float32)
    done = tf.cast(step, tf.float32) / config.decay_steps
    return config.select_rate + tf.minimum(done, 1.0) * (
        config.last_rate - config.select_rate
    )


def _bits(
    name: int, seed: int, first_position: tf.Tensor, batch: Any, number: int
) -> tf.Tensor:
    """uint32 [batch, >= number], a function of name, seed and position."""
    steps = -(-number // _DRAWS_PER_STEP)  # A row begins with a new one.
    counter = tf.cast(first_position, tf.uint64) * tf.constant(steps, tf.uint64)
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([batch, steps * _DRAWS_PER_STEP]),
        key=tf.constant([seed ^ name], tf.uint64),
        counter=tf.stack([counter, tf.constant(0, tf.uint64)]),
        alg=_PHILOX,
        dtype=tf.uint32,
    )


def _scores_of(bits: tf.Tensor) -> tf.Tensor:
    """uint32 -> int32, 0 or more."""
    shifted = tf.bitwise.right_shift(bits, tf.constant(1, tf.uint32))
    return tf.bitcast(shifted, tf.int32)


def _share(bits: tf.Tensor) -> tf.Tensor:
    """Uniform float32 in [0, 1), multiples of 2^-24, from uint32."""
    shifted = tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32))
    return tf.cast(tf.bitcast(shifted, tf.int32), tf.float32) * 2.0**-24


def _stochastic_count(
    num_ordinary: tf.Tensor, rate: tf.Tensor | float, draw: tf.Tensor
) -> tf.Tensor:
    """How many tokens to predict, int32 [B].

    rate * n on average, rounded up or down by chance; but at least one where
    there is a token at all and the rate is above zero.
    """
    expected = tf.cast(num_ordinary, tf.float32) * rate
    count = tf.cast(tf.floor(expected + draw), tf.int32)
    count = tf.maximum(count, tf.cast(expected > 0, tf.int32))
    return tf.minimum(count, num_ordinary)


def _select(
    scores: tf.Tensor, count: tf.Tensor, *, num_predictions: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The `count` best slots: positions int32 and weights float32 [B, P].

    Equal scores (slots of one span) stay together, in
    order of position: `top_k` breaks ties by the lower index.
    """
    _, positions = tf.math.top_k(scores, k=num_predictions)
    weights = tf.sequence_mask(count, num_predictions, tf.float32)
    return positions, weights


def _whole_words(
    words: tf.Tensor,
    scores: tf.Tensor,
    count: tf.Tensor,
    draw: tf.Tensor,
    *,
    num_predictions: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Words of `count` slots on average: positions and weights [B, P].

    The words of a row, by score, lie on a circle, and a word is selected where
    its middle lies on an arc of `count` slots that begins at a random one. So
    long words are selected as often as short ones. A last word for which P is
    too small is left out.
    """
    ordered, slots = tf.math.top_k(scores, k=scores.shape[1])  # [B, L]
    word, size = (
        tf.gather(values, slots, batch_dims=1)
        for values in (words, _word_lengths(words))
    )
    total = tf.reduce_sum(tf.cast(scores >= 0, tf.int32), axis=1)
    begin = tf.cast(draw * tf.cast(total, tf.float32), tf.int32)
    total = tf.maximum(total, 1)[:, tf.newaxis]
    middle = _first_of_word(word) + (size - 1) // 2
    place = tf.math.floormod(middle - begin[:, tf.newaxis], total)
    selected = (place < count[:, tf.newaxis]) & (ordered >= 0)
    # In the order of the arc, so that the last word is the one that is cut.
    values, entries = tf.math.top_k(
        tf.where(selected, total - place, 0), k=num_predictions
    )
    positions, word, size = (
        tf.gather(each, entries, batch_dims=1) for each in (slots, word, size)
    )
    whole = _first_of_word(word) + size <= num_predictions
    return positions, tf.cast((values > 0) & whole, tf.float32)


def _first_of_word(word: tf.Tensor) -> tf.Tensor:
    """The first index with the same number, in runs of them, int32 [B, n]."""
    previous = tf.pad(word[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
    index = tf.range(word.shape[1])[tf.newaxis]
    return packing.running_maximum(tf.where(word != previous, index, 0))


def _word_lengths(words: tf.Tensor) -> tf.Tensor:
    """How many slots the word of a slot has, int32 [B, L]."""
    batch, length = tf.shape(words)[0], words.shape[1]
    sizes = tf.math.unsorted_segment_sum(
        tf.ones_like(words),
        words + tf.range(batch)[:, tf.newaxis] * length,
        batch * length,
    )
    return tf.gather(tf.reshape(sizes, [-1, length]), words, batch_dims=1)


def _span_scores(
    first: tf.Tensor,
    second: tf.Tensor,
    *,
    segment_ids: tf.Tensor,
    ordinary: tf.Tensor,
) -> tf.Tensor:
    """The best score of the spans that cover a slot, int32 [B, L].

    A span starts at every ordinary slot with a length of its own; it ends
    early where its segment or the ordinary tokens end.
    """
    stop = math.log(1 - _SPAN_STOP_RATE)
    lengths = 1 + tf.cast(tf.math.log1p(-second) / stop, tf.int32)
    lengths = tf.minimum(lengths, _LONGEST_SPAN)
    best = tf.where(ordinary, first, -1)
    running = best
    reach = ordinary  # Slots between the start and here are one run of text.
    for distance in range(1, min(_LONGEST_SPAN, first.shape[1])):
        pad = [[0, 0], [1, 0]]
        running = tf.pad(running[:, :-1], pad, constant_values=-1)
        lengths = tf.pad(lengths[:, :-1], pad)
        same = segment_ids == tf.pad(segment_ids[:, :-1], pad)
        reach = tf.pad(reach[:, :-1], pad) & ordinary & same
        covered = reach & (lengths > distance)
        best = tf.where(covered, tf.maximum(best, running), best)
    return best
