"""Raw strings with masks to the words that fit them.

N texts, L slots, M masks, K fill-ins for each, V vocabulary.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from input_pipeline import strings
from trainer.modeling import encoder as encoders
from trainer.modeling import heads, pieces
from trainer.modeling.text import TextModel


@keras.saving.register_keras_serializable("cloze")
class TextMaskedLM(TextModel):
    """Raw strings [N] to the best K tokens for their first M masks."""

    def __init__(
        self,
        *,
        max_masks: int,
        top_k: int,
        name: str = "text_masked_lm",
        **kwargs: Any,
    ) -> None:
        """Makes the model with random weights; kwargs as for `TextClassifier`.

        K is `top_k`, or the number of ordinary tokens if that is smaller.
        """
        super().__init__(name=name, **kwargs)
        self.max_masks = max_masks
        num_ordinary = np.count_nonzero(~self.codec.is_special)
        self.top_k = min(top_k, int(num_ordinary))
        self.masked_lm = heads.create_masked_lm(
            self.model_config,
            vocabulary_size=len(self.codec.vocabulary),
            sequence_length=self.sequence_length,
            dtype="float32",
        )
        self.built = True

    @property
    def encoder(self) -> encoders.Encoder:
        """The pretrained one."""
        return self.masked_lm.encoder

    def call(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """Fills in the masks of raw strings [N].

        A text longer than a row is seen through a window of L slots around
        the middle of its first M masks.

        Returns:
          `tokens`: string [N, M, K], the best first; "" if there is no such
            mask, or if it lies outside the window.
          `probabilities`: float32 [N, M, K]; 0 for those.
          `count`: int32 [N], the masks of the text, possibly more than M.
        """
        ids = self.codec.prompt_ids(strings.clean(text))
        is_mask = tf.cast(ids == self.codec.special.mask, tf.int32)
        shape = [None, self.max_masks, self.top_k]
        tokens, rates = pieces.in_groups(
            self._window(ids),
            self._answer,
            size=pieces.ROWS_AT_ONCE,
            like=[tf.TensorSpec(shape, tf.int32), tf.TensorSpec(shape)],
        )
        words = tf.gather(self.codec.vocabulary, tf.maximum(tokens, 0))
        return {
            "tokens": tf.where(tokens < 0, "", words),
            "probabilities": rates,
            "count": tf.reduce_sum(is_mask, axis=1),
        }

    def _window(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """At most `room` tokens of each text, around its first M masks."""
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        places = tf.ragged.range(lengths)
        masks = tf.ragged.boolean_mask(places, ids == self.codec.special.mask)[
            :, : self.max_masks
        ]
        # Without masks these are the extremes of int32.
        first = tf.minimum(tf.reduce_min(masks, axis=1), lengths)
        last = tf.maximum(tf.reduce_max(masks, axis=1), 0)
        start = first + (last - first + 1) // 2 - self.room // 2
        # If the masks are too far apart, the window begins at the first.
        start = tf.minimum(start, first)
        start = tf.clip_by_value(start, 0, tf.maximum(lengths - self.room, 0))
        start = start[:, tf.newaxis]
        return tf.ragged.boolean_mask(
            ids, (places >= start) & (places < start + self.room)
        )

    def _answer(self, ids: tf.RaggedTensor) -> list[tf.Tensor]:
        """int32 [n, M, K], -1 = no answer, and their probabilities."""
        rows = self.rows(ids)
        is_mask = rows["token_ids"] == self.codec.special.mask
        is_mask &= rows["segment_ids"] > 0
        rank = tf.cumsum(tf.cast(is_mask, tf.int32), axis=1)  # [n, slots]
        wanted = tf.range(1, self.max_masks + 1)[:, tf.newaxis]
        hits = is_mask[:, tf.newaxis] & (rank[:, tf.newaxis] == wanted)
        places = tf.argmax(tf.cast(hits, tf.int32), 2, tf.int32)  # [n, M]
        logits = self.masked_lm.head(self.encoder(rows), places)
        # Padding, unknown and other special tokens are no answer.
        logits = tf.where(self.codec.is_special, -np.inf, logits)
        rates, tokens = tf.math.top_k(tf.nn.softmax(logits), k=self.top_k)
        is_found = tf.reduce_any(hits, axis=2)[:, :, tf.newaxis]
        return [tf.where(is_found, tokens, -1), tf.where(is_found, rates, 0.0)]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "max_masks": self.max_masks,
            "top_k": self.top_k,
        }
