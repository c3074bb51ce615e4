"""The linear model of n-grams as a layer; see `trainer.ngrams`."""

import keras
import numpy as np
import tensorflow as tf

from trainer import ngrams


class NGramHead(keras.layers.Layer):
    """Tokens of N documents to logits [N, K]; fitted, never trained."""

    def __init__(
        self,
        num_ngrams: int,
        num_logits: int,
        *,
        is_special: np.ndarray,
        name: str = "ngrams",
    ) -> None:
        """Room for G = `num_ngrams` n-grams; `is_special` is bool [V]."""
        super().__init__(name=name, trainable=False, dtype="float32")
        self._is_special = is_special
        shapes = {
            "keys": (num_ngrams,),
            "scales": (num_ngrams,),
            "coefficients": (num_ngrams, num_logits),
            "bias": (num_logits,),
        }
        for part, shape in shapes.items():
            variable = self.add_weight(
                shape=shape,
                initializer="zeros",
                dtype="int64" if part == "keys" else "float32",
                trainable=False,
                name=part,
            )
            setattr(self, part, variable)
        self.built = True

    def assign(self, model: ngrams.NGrams) -> None:
        """Takes over a fitted model of this size."""
        for part in ("keys", "scales", "coefficients", "bias"):
            getattr(self, part).assign(getattr(model, part))

    def call(
        self,
        token_ids: tf.Tensor,
        segments: tf.Tensor,
        owners: tf.Tensor,
        *,
        num_documents: tf.Tensor,
    ) -> tf.Tensor:
        """`ngrams.logits` of `ngrams.features`."""
        features = ngrams.features(
            self,
            token_ids,
            segments,
            owners,
            is_special=self._is_special,
            num_documents=num_documents,
        )
        return ngrams.logits(self, features)
