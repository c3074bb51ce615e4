"""The encoder: tokens to states, with no idea of the task.

Dimensions: B rows, L slots, D width, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import keras
import tensorflow as tf

from configs import schema
from trainer.modeling import attention, layers


def features(token_ids: tf.Tensor, pad_id: int = 0) -> dict[str, tf.Tensor]:
    """The encoder's input for one text a row: int32 [B, L] each.

    Raises:
      ValueError: `token_ids` are no integers [B, L].
    """
    token_ids = tf.convert_to_tensor(token_ids)
    if token_ids.shape.rank != 2 or not token_ids.dtype.is_integer:
        raise ValueError(
            f"token_ids are {token_ids.dtype.name} {token_ids.shape}, but must"
            " be integers [texts, slots]; fill shorter texts up with"
            f" {pad_id}."
        )
    token_ids = tf.cast(token_ids, tf.int32)
    positions = tf.range(tf.shape(token_ids)[1])
    return {
        "token_ids": token_ids,
        "segment_ids": tf.cast(token_ids != pad_id, tf.int32),
        "position_ids": tf.zeros_like(token_ids) + positions,
    }


@keras.saving.register_keras_serializable(package="cloze")
class Encoder(keras.Model):
    """Embeddings, transformer layers, final states.

    Attributes:
      rematerialize: keep only the input of each layer for its gradient and
        compute the rest again, which takes less memory and more time (Chen et
        al., "Training Deep Nets with Sublinear Memory Cost", 2016).
    """

    rematerialize = False

    def __init__(
        self,
        *,
        vocabulary_size: int,
        sequence_length: int,
        seed: int = 0,
        name: str = "encoder",
        trainable: bool = True,
        dtype: Any = None,
        **model_fields: Any,
    ) -> None:
        """Makes the layers; `build(None)` makes the weights, from `seed` alone.

        `model_fields` are those of `configs.schema.ModelConfig`; `dtype` is a
        Keras policy, None = the global one.
        """
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        model = schema.ModelConfig(**model_fields)
        self.model_config = model
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.seed = seed
        make = layers.LayerFactory(
            model, seed=seed, stream=0, dtype=self.dtype_policy
        )
        self.token_embedding = make.embedding(
            vocabulary_size, "token_embedding"
        )
        self.position_embedding = self.type_embedding = None
        self.embedding_norm = self.final_norm = None
        if model.positions == "learned":
            self.position_embedding = make.embedding(
                sequence_length, "position_embedding"
            )
        if model.token_types:
            self.type_embedding = make.embedding(2, "type_embedding")
        if model.embedding_norm:
            self.embedding_norm = make.norm("embedding_norm")
            self.embedding_dropout = layers.Dropout(
                model.dropout, index=0, name="embedding_dropout"
            )
        self.transformer_layers = [
            layers.TransformerLayer(
                make, dropout_index=1 + 3 * i, name=f"transformer_layer_{i}"
            )
            for i in range(model.num_layers)
        ]
        if model.normalization == "pre":
            self.final_norm = make.norm("final_norm")

    @classmethod
    def from_model_config(
        cls,
        model_config: schema.ModelConfig,
        *,
        vocabulary_size: int,
        sequence_length: int,
        **kwargs: Any,
    ) -> Self:
        """The configured encoder, without weights; kwargs: seed, dtype, …."""
        return cls(
            vocabulary_size=vocabulary_size,
            sequence_length=sequence_length,
            **kwargs,
            **dataclasses.asdict(model_config),
        )

    def build(self, input_shape: Any) -> None:
        """Creates the weights; their shapes do not depend on the input."""
        shape = self.compute_output_shape(input_shape)
        tables = (
            self.token_embedding,
            self.position_embedding,
            self.type_embedding,
        )
        for table in filter(None, tables):
            table.build(shape[:-1])
        norms = (self.embedding_norm, self.final_norm)
        for layer in (*filter(None, norms), *self.transformer_layers):
            layer.build(shape)

    def call(
        self,
        batch: Mapping[str, tf.Tensor],
        noise: layers.Noise | None = None,
    ) -> tf.Tensor:
        """States [B, L, D] in the compute dtype; no dropout without noise.

        Reads `token_ids`, `segment_ids`, `position_ids`, int32 [B, L], and
        ignores every other key.

        Raises:
          ValueError: there are more slots than the encoder has seen.
        """
        length = batch["token_ids"].shape[1]
        if length is not None and length > self.sequence_length:
            raise ValueError(
                f"Rows of {length} slots are too long: this encoder has seen"
                f" rows of {self.sequence_length}. Cut the texts in pieces."
            )
        x = self.token_embedding(batch["token_ids"])  # [B, L, D]
        if self.position_embedding:
            x += self.position_embedding(batch["position_ids"])
        if self.type_embedding:
            x += self.type_embedding(tf.zeros([1, 1], tf.int32))
        if self.embedding_norm:
            x = self.embedding_dropout(self.embedding_norm(x), noise=noise)
        segment_ids = turn = None
        if not self.model_config.attend_padding:
            segment_ids = batch["segment_ids"]
        if not self.position_embedding:
            turn = attention.rotation(
                batch["position_ids"],
                size=self.model_config.hidden_size
                // self.model_config.num_heads,
                length=self.sequence_length,
                dtype=self.compute_dtype,
            )
        for layer in self.transformer_layers:

            def apply(x: tf.Tensor, layer: Any = layer) -> tf.Tensor:
                return layer(x, segment_ids=segment_ids, noise=noise, turn=turn)

            x = (tf.recompute_grad(apply) if self.rematerialize else apply)(x)
        return self.final_norm(x) if self.final_norm else x

    def compute_output_shape(self, input_shape: Any) -> Any:
        """[B, L, D]."""
        return (None, self.sequence_length, self.model_config.hidden_size)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "sequence_length": self.sequence_length,
            "seed": self.seed,
            **dataclasses.asdict(self.model_config),
        }
