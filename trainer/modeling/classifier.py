"""The classifier: from the states of many slots to one answer per document.

N rows (or pieces of text) of L slots, M documents, D width, C classes.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs import schema
from trainer.modeling import encoder as encoders
from trainer.modeling import layers

# Far above the indices of dropout in the encoder: 1, and 3 for each layer.
_DROPOUT_INDEX = 10_000
_WORD_DROPOUT_INDEX = 10_001


class DocumentPooling(keras.layers.Layer):
    """Slots to documents: [N, L, D] -> [M, D], or [M, 2 D] for "mean_max"."""

    def __init__(
        self, make: layers.LayerFactory, kind: str, *, name: str = "pooling"
    ) -> None:
        """`kind` is max | mean | mean_max | attention."""
        super().__init__(autocast=False, dtype=make.dtype, name=name)
        self.kind = kind
        self.scores = None
        if kind == "attention":
            # No bias: softmax cancels it.
            self.scores = make.einsum("nld,de->nle", "scores", shape=(1,))

    def build(self, input_shape: Any) -> None:
        """Creates the weights for states [N, L, D]."""
        if self.scores:
            self.scores.build(input_shape)

    def call(
        self, states: tf.Tensor, owners: tf.Tensor, *, num_documents: int
    ) -> tf.Tensor:
        """Pools in float32.

        Args:
          states: [N, L, D].
          owners: int32 [N, L], the document (0 to M - 1) of each slot, or -1.
          num_documents: M.

        Returns:
          float32 [M, D or 2 D]; zeros for a document without slots.
        """
        slots = tf.reshape(states, [-1, states.shape[-1]])
        slots = tf.cast(slots, tf.float32)  # [N * L, D]
        owners = tf.reshape(owners, [-1])
        if self.scores:
            scores = tf.cast(self.scores(states), tf.float32)
            weights = _weights(
                tf.reshape(scores, [-1]), owners, num_documents=num_documents
            )
            return tf.math.unsorted_segment_sum(
                slots * weights[:, tf.newaxis], owners, num_documents
            )
        parts = []
        if self.kind in ("mean", "mean_max"):
            parts.append(
                tf.math.unsorted_segment_mean(slots, owners, num_documents)
            )
        if self.kind in ("max", "mean_max"):
            # Neighbours of the largest bfloat16 are as large as it is.
            is_exact = states.dtype == tf.float32
            parts.append(
                _segment_max(
                    slots,
                    owners,
                    num_documents,
                    tolerance=1e-5 if is_exact else 2**-7,
                )
            )
        return tf.concat(parts, axis=-1)


class ClassifierHead(keras.layers.Layer):
    """Pooling, an optional dense layer, dropout, logits.

    Two classes share one logit, that of the second (a sigmoid); more classes
    have one each (a softmax). Where a document may have several labels, every
    class has one (a sigmoid each).
    """

    def __init__(
        self,
        make: layers.LayerFactory,
        finetune: schema.FinetuneConfig,
        *,
        num_logits: int,
        name: str = "classifier_head",
    ) -> None:
        """`num_logits` is that of the function `num_logits`."""
        super().__init__(autocast=False, dtype=make.dtype, name=name)
        width = make.model.hidden_size
        self._pooled = width * (2 if finetune.pooling == "mean_max" else 1)
        self._hidden = finetune.hidden_size
        self.pooling = DocumentPooling(make, finetune.pooling)
        self.hidden = None
        if finetune.hidden_size:
            self.hidden = make.dense(
                finetune.hidden_size, "hidden", make.model.activation
            )
        self.dropout = layers.Dropout(
            finetune.dropout, _DROPOUT_INDEX, name="dropout"
        )
        self.logits = make.dense(num_logits, "logits")

    def build(self, input_shape: Any) -> None:
        """Creates the weights for states [N, L, D]."""
        self.pooling.build(input_shape)
        if self.hidden:
            self.hidden.build((None, self._pooled))
        self.logits.build((None, self._hidden or self._pooled))

    def call(
        self,
        states: tf.Tensor,
        owners: tf.Tensor,
        *,
        num_documents: int,
        noise: layers.Noise | None = None,
    ) -> tf.Tensor:
        """Logits float32 [M, 1 or C]; arguments as `DocumentPooling`."""
        x = self.pooling(states, owners, num_documents=num_documents)
        x = tf.cast(x, self.compute_dtype)
        if self.hidden:
            x = self.hidden(x)
        return tf.cast(self.logits(self.dropout(x, noise=noise)), tf.float32)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """[M, 1 or C]."""
        return (None, self.logits.units)


class Classifier(keras.Model):
    """Encoder and classifier head."""

    def __init__(
        self,
        encoder: encoders.Encoder,
        head: ClassifierHead,
        *,
        pools_padding: bool = False,
        name: str = "classifier",
        **kwargs: Any,
    ) -> None:
        """Joins two built parts; their variables keep their own paths."""
        super().__init__(name=name, **kwargs)
        self.pools_padding = pools_padding
        self.encoder = encoder
        self.head = head
        self.built = True

    def call(
        self,
        batch: Mapping[str, tf.Tensor],
        noise: layers.Noise | None = None,
    ) -> tf.Tensor:
        """Logits float32 [B, S, 1 or C], S documents a row.

        Reads `token_ids`, `segment_ids`, `position_ids` and `document_ids`,
        int32 [B, R], R a multiple of the encoder's L: no segment crosses a
        multiple of L, so a row is R / L rows to the encoder. `labels` [B, S]
        or [B, S, C] says S and is not read.
        """
        rows, documents = batch["labels"].shape[:2]
        length = self.encoder.sequence_length
        states = self.encoder(
            {
                key: tf.reshape(batch[key], [-1, length])
                for key in ("token_ids", "segment_ids", "position_ids")
            },
            noise=noise
            and noise.for_parts(batch["token_ids"].shape[1] // length),
        )
        # document_ids count from 1 in every row; 0 = padding.
        number = batch["document_ids"] - 1  # [B, R]
        if self.pools_padding:
            number = tf.zeros_like(number)  # As the Keras example pools.
        first = tf.range(rows)[:, tf.newaxis] * documents
        owners = tf.where(number < 0, -1, first + number)
        logits = self.head(
            states,
            tf.reshape(owners, [-1, length]),
            num_documents=rows * documents,
            noise=noise and noise.for_parts(documents),
        )
        return tf.reshape(logits, [rows, documents, -1])


def _segment_max(
    slots: tf.Tensor, owners: tf.Tensor, num_documents: int, tolerance: float
) -> tf.Tensor:
    """The maximum over the slots of each document, [M, D]; 0 without slots.

    TensorFlow's own gradient goes to the slots that equal the maximum. XLA may
    compute a slot twice, rounded differently: then none is equal, and the
    gradient is divided by zero. Here it is shared by all slots that are within
    `tolerance`, relative to 1 + |maximum|.
    """

    @tf.custom_gradient
    def pool(slots: tf.Tensor) -> Any:
        highest = tf.math.unsorted_segment_max(slots, owners, num_documents)
        # The lowest float stands where there is no slot.
        highest = tf.where(highest <= tf.float32.min, 0.0, highest)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            own = tf.maximum(owners, 0)
            least = highest - tolerance * (1 + tf.abs(highest))
            wins = (slots >= tf.gather(least, own)) & (owners >= 0)[:, None]
            number = tf.math.unsorted_segment_sum(
                tf.cast(wins, tf.float32), owners, num_documents
            )
            share = tf.math.divide_no_nan(upstream, number)
            return tf.where(wins, tf.gather(share, own), 0.0)

        return highest, gradient

    return pool(slots)


def pools_padding(
    model: schema.ModelConfig, finetune: schema.FinetuneConfig
) -> bool:
    """Whether padding is pooled with its document, as in the Keras example.

    It is, if it is attended to and each document has a row of L to itself.
    """
    alone = finetune.packing == "document" and finetune.pieces_per_row == 1
    return model.attend_padding and alone


def num_logits(num_classes: int, *, multilabel: bool) -> int:
    """K: 1 where a document has one of two classes, else C."""
    return 1 if num_classes == 2 and not multilabel else num_classes


def probabilities(logits: tf.Tensor, *, multilabel: bool = False) -> tf.Tensor:
    """Logits [..., K] -> probabilities [..., C], float32.

    They sum to 1, or are independent where a document may have several labels.
    """
    if multilabel:
        return tf.sigmoid(logits)
    if logits.shape[-1] > 1:
        return tf.nn.softmax(logits)
    # Both from the logit, because 1 - p would round small values to 0.
    return tf.concat([tf.sigmoid(-logits), tf.sigmoid(logits)], axis=-1)


def joined(chosen: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
    """Sets of classes, bool [N, C], as labels in the data: string [N].

    A label is a JSON list in the order of the names: '["anger", "joy"]'.
    """
    order = sorted(range(len(names)), key=names.__getitem__)
    quoted = [json.dumps(names[c], ensure_ascii=False) for c in order]
    places = tf.where(tf.gather(chosen, order, axis=1))
    lists = tf.strings.unsorted_segment_join(
        tf.gather(quoted, places[:, 1]),
        places[:, 0],
        num_segments=tf.shape(chosen)[0],
        separator=", ",
    )
    return tf.strings.join(["[", lists, "]"])


def drop_words(
    token_ids: tf.Tensor,
    noise: layers.Noise,
    *,
    rate: float,
    is_special: np.ndarray,
    unknown_id: int,
) -> tf.Tensor:
    """int32 [B, R] with a share `rate` of the ordinary tokens made unknown."""
    if not rate:
        return token_ids
    rows, slots = token_ids.shape
    keys = layers.row_keys(noise, index=_WORD_DROPOUT_INDEX, num_rows=rows)
    dropped = layers.random_words(keys, (slots,)) < layers.threshold(rate)
    dropped &= ~tf.gather(is_special, token_ids)
    return tf.where(dropped, unknown_id, token_ids)


def create_classifier(
    model_config: schema.ModelConfig,
    finetune: schema.FinetuneConfig,
    *,
    vocabulary_size: int,
    sequence_length: int,
    num_classes: int,
    multilabel: bool = False,
    dtype: Any = None,
) -> Classifier:
    """The configured model with its weights, a function of `finetune.seed`.

    Variables are called encoder/..., as in `create_masked_lm`, and
    classifier_head/....
    """
    encoder = encoders.Encoder.from_model_config(
        model_config,
        vocabulary_size=vocabulary_size,
        sequence_length=sequence_length,
        seed=finetune.seed,
        dtype=dtype,
    )
    # Keras' own initializers: after pretraining, 0.02 would be a slow start.
    plain = dataclasses.replace(model_config, initializer_range=0.0)
    make = layers.LayerFactory(
        plain, seed=finetune.seed, stream=2, dtype=encoder.dtype_policy
    )
    number = num_logits(num_classes, multilabel=multilabel)
    head = ClassifierHead(make, finetune, num_logits=number)
    encoder.build(None)
    head.build((None, sequence_length, model_config.hidden_size))
    return Classifier(
        encoder,
        head,
        pools_padding=pools_padding(model_config, finetune),
        dtype=dtype,
    )


def _weights(
    scores: tf.Tensor, owners: tf.Tensor, *, num_documents: int
) -> tf.Tensor:
    """Softmax of [n] within each document; 0 for slots without one."""
    highest = tf.math.unsorted_segment_max(scores, owners, num_documents)
    index = tf.maximum(owners, 0)
    is_owned = owners >= 0
    # The highest score cancels, so no gradient has to pass through it.
    shifted = scores - tf.stop_gradient(tf.gather(highest, index))
    powers = tf.where(is_owned, tf.exp(tf.where(is_owned, shifted, 0.0)), 0.0)
    sums = tf.math.unsorted_segment_sum(powers, owners, num_documents)
    return tf.math.divide_no_nan(powers, tf.gather(sums, index))
