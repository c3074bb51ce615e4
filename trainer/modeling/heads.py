"""The masked-LM head, and the model that pretraining trains.

Dimensions: B rows, L slots, P predictions a row, D width, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from configs import schema
from trainer.modeling import encoder as encoders
from trainer.modeling import layers


class MaskedLMHead(keras.layers.Layer):
    """Logits at the predicted positions: gathers first, then projects."""

    def __init__(
        self,
        make: layers.LayerFactory,
        *,
        vocabulary_size: int,
        tied_embedding: keras.layers.Embedding | None = None,
        name: str = "masked_lm_head",
    ) -> None:
        """Projects with the table of `tied_embedding` or an own kernel."""
        # No autocast: the projection itself says where it rounds.
        super().__init__(autocast=False, dtype=make.dtype, name=name)
        width = make.model.hidden_size
        self._kernel_shape = (vocabulary_size, width)
        self._kernel_initializer = make.initializer()
        # A function, because the summary would count the table twice.
        self._tied_table = None
        if tied_embedding is not None:
            self._tied_table = lambda: tied_embedding.embeddings
        self.transform = []
        if make.model.head_transform:
            self.transform = [
                make.dense(width, "transform_dense", make.model.activation),
                make.norm("transform_norm"),
            ]

    def build(self, input_shape: Any) -> None:
        """Creates the weights; their shapes do not depend on the input."""
        vocabulary_size, width = self._kernel_shape
        for layer in self.transform:
            layer.build((None, width))
        if self._tied_table is None:
            self.kernel = self.add_weight(
                shape=self._kernel_shape,
                initializer=self._kernel_initializer,
                name="kernel",
            )
        self.bias = self.add_weight(
            shape=(vocabulary_size,), initializer="zeros", name="bias"
        )

    def hidden(self, states: tf.Tensor, mask_positions: tf.Tensor) -> tf.Tensor:
        """[B, L, D], int32 [B, P] -> the vectors to project, [B * P, D]."""
        x = tf.gather(states, mask_positions, batch_dims=1)  # [B, P, D]
        x = tf.reshape(x, [-1, states.shape[-1]])  # [B * P, D]
        for layer in self.transform:
            x = layer(x)
        return x

    def projection(self) -> tuple[tf.Tensor, tf.Tensor]:
        """(kernel [V, D], bias [V]), float32, differentiable."""
        kernel = self._tied_table() if self._tied_table else self.kernel
        return tf.convert_to_tensor(kernel), tf.convert_to_tensor(self.bias)

    def call(self, states: tf.Tensor, mask_positions: tf.Tensor) -> tf.Tensor:
        """[B, L, D], int32 [B, P] -> logits float32 [B, P, V].

        The product is computed in the compute dtype.
        """
        hidden = self.hidden(states, mask_positions)
        kernel, bias = self.projection()
        kernel = tf.cast(kernel, hidden.dtype)
        logits = tf.matmul(hidden, kernel, transpose_b=True)
        logits = tf.cast(logits, tf.float32) + bias
        shape = tf.concat([tf.shape(mask_positions), [logits.shape[-1]]], 0)
        return tf.reshape(logits, shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """[B, P, V]."""
        return (None, None, self._kernel_shape[0])


class MaskedLM(keras.Model):
    """Encoder and masked-LM head."""

    def __init__(
        self,
        encoder: encoders.Encoder,
        head: MaskedLMHead,
        name: str = "masked_lm",
        **kwargs: Any,
    ) -> None:
        """Joins two parts that are built; their variables keep their paths."""
        super().__init__(name=name, **kwargs)
        self.encoder = encoder
        self.head = head
        self.built = True

    def predictions(
        self,
        batch: Mapping[str, tf.Tensor],
        noise: layers.Noise | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The factors of the logits: hidden, kernel [V, D], bias [V].

        hidden is [B * P, D]; the logits are hidden @ kernel.T + bias. A loss
        that computes them in chunks never holds them all.
        """
        states = self.encoder(batch, noise=noise)
        hidden = self.head.hidden(states, batch["mask_positions"])
        return hidden, *self.head.projection()

    def call(
        self,
        batch: Mapping[str, tf.Tensor],
        noise: layers.Noise | None = None,
    ) -> tf.Tensor:
        """Logits float32 [B, P, V] at `mask_positions`."""
        states = self.encoder(batch, noise=noise)
        return self.head(states, batch["mask_positions"])


def create_masked_lm(
    model_config: schema.ModelConfig,
    *,
    vocabulary_size: int,
    sequence_length: int,
    seed: int = 0,
    dtype: Any = None,
) -> MaskedLM:
    """The configured model with its weights, a function of `seed` alone.

    `dtype` is a Keras dtype policy; None means the global one. Variables are
    called encoder/... and masked_lm_head/..., the encoder's as they are in
    any other model that holds it.
    """
    encoder = encoders.Encoder.from_model_config(
        model_config,
        vocabulary_size=vocabulary_size,
        sequence_length=sequence_length,
        seed=seed,
        dtype=dtype,
    )
    head = MaskedLMHead(
        layers.LayerFactory(
            model_config, seed=seed, stream=1, dtype=encoder.dtype_policy
        ),
        vocabulary_size=vocabulary_size,
        tied_embedding=(
            encoder.token_embedding if model_config.tie_embeddings else None
        ),
    )
    encoder.build(None)
    head.build(None)
    return MaskedLM(encoder, head, dtype=dtype)
