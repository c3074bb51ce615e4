"""AdamW for gradients that the step has already reduced, and its schedule."""

import contextlib
import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from configs import schema

# Variables whose last name is one of these are not decayed.
_NOT_DECAYED = ("bias", "gamma", "beta")


class FusedAdamW(keras.optimizers.Adam):
    """Keras' AdamW (Loshchilov and Hutter, 2019), one fused op a variable.

    Keras would sum the gradients over the replicas a second time; this
    optimizer takes them as they are (see `mean`). `update_step` computes the
    same as that of Keras in one pass over memory instead of six.

    Attributes:
      rate_scales: variable path -> factor of its learning rate, 1 if the path
        is missing. Weight decay uses the rate without the factor.
    """

    rate_scales: Mapping[str, float] = types.MappingProxyType({})

    def _all_reduce_sum_gradients(
        self, grads_and_vars: Iterable[tuple[tf.Tensor, tf.Variable]]
    ) -> list[tuple[tf.Tensor, tf.Variable]]:
        return list(grads_and_vars)

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: tf.Variable,
        learning_rate: tf.Tensor,
    ) -> None:
        """Updates one variable on one device, in place."""
        index = self._get_variable_index(variable)
        path = self._trainable_variables[index].path
        rate = tf.cast(learning_rate, tf.float32)
        step = tf.cast(self.iterations.value + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.constant(self.beta_1), step),
            beta2_power=tf.pow(tf.constant(self.beta_2), step),
            lr=rate * self.rate_scales.get(path, 1.0),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, tf.float32),
        )


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then constant, or linear or cosine decay.

    Args:
      config: the section `optimizer`.
      num_steps: where the decay ends.

    Attributes:
      warmup_steps: half of the run at most, whatever the config says.
    """

    def __init__(self, config: schema.OptimizerConfig, num_steps: int):
        super().__init__()
        self.warmup_steps = min(config.warmup_steps, num_steps // 2)
        self._config = config
        self._num_steps = num_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of a step (0, 1, ...), float32 []."""
        config = self._config
        step = tf.cast(step, tf.float32)
        decay_steps = max(1, self._num_steps - self.warmup_steps)
        done = tf.clip_by_value(
            (step - self.warmup_steps) / decay_steps, 0.0, 1.0
        )
        left = {
            "constant": tf.ones_like(done),
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + tf.cos(math.pi * done)),
        }[config.schedule]
        rate = config.final_rate + (1.0 - config.final_rate) * left
        if self.warmup_steps:
            rate *= tf.minimum(1.0, (step + 1.0) / self.warmup_steps)
        return config.learning_rate * rate


def create(
    config: schema.OptimizerConfig,
    variables: list[keras.Variable],
    *,
    num_steps: int,
    precision: str,
    rate_scales: Mapping[str, float] | None = None,
    average_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """An optimizer, built for `variables`; call it in the strategy's scope.

    float16 comes with a dynamic loss scale, which is safe here because the
    gradients it looks at are those of all replicas.

    Args:
      config: the section `optimizer`.
      variables: what is trained.
      num_steps: where the schedule ends.
      precision: of `strategy.Arithmetic`.
      rate_scales: see `FusedAdamW`.
      average_decay: of the moving average of the weights (see `Averages`);
        0 = none is kept.
    """
    optimizer = FusedAdamW(
        learning_rate=Schedule(config, num_steps),
        weight_decay=config.weight_decay or None,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        epsilon=config.epsilon,
        use_ema=average_decay > 0,
        ema_momentum=average_decay or None,
        name="adamw",
    )
    optimizer.rate_scales = dict(rate_scales or {})
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in variables if v.path.split("/")[-1] in _NOT_DECAYED]
    )
    if precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, name="loss_scale"
        )
    optimizer.build(variables)
    return optimizer


def mean(
    gradients: list[tf.Tensor], weight: tf.Tensor, limit: Any = None
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Summed gradients, divided by the weight and clipped in one pass.

    Args:
      gradients: of the sum of the losses of a global batch.
      weight: of that batch, float32 []; where it is 0 so are the means.
      limit: largest global norm of the means (Pascanu et al., 2013), if any.

    Returns:
      The mean gradients, and the global norm that they had before clipping.
    """
    scale = tf.math.divide_no_nan(1.0, weight)
    norm = tf.linalg.global_norm(gradients) * scale
    if limit is not None:
        scale *= limit / tf.maximum(norm, limit)
    return [gradient * scale for gradient in gradients], norm


class Averages:
    """Swaps the weights with their moving averages, and back.

    While they are swapped, the model computes with the averages, and a
    checkpoint holds them as its weights (Polyak and Juditsky, 1992; kept by
    Keras' `use_ema`).
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        variables: list[keras.Variable],
    ) -> None:
        """If the optimizer keeps no averages, swapping does nothing."""
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        averages = (
            inner._model_variables_moving_average if inner.use_ema else []
        )
        self._pairs = list(zip(variables, averages, strict=bool(averages)))

    def swap(self) -> None:
        """Swaps them; a second call brings the weights back."""
        for variable, average in self._pairs:
            value = variable.numpy()
            variable.assign(average.numpy())
            average.assign(value)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """The block computes with the averages."""
        self.swap()
        try:
            yield
        finally:
            self.swap()


def layer_scales(
    paths: Iterable[str], *, num_layers: int, decay: float
) -> dict[str, float]:
    """Path -> decay ** (layers between it and the head).

    The head has 1, the last transformer layer `decay`, the embeddings
    decay ** (num_layers + 1) (Howard and Ruder, "ULMFiT", 2018).
    """
    scales = {}
    for path in paths:
        found = re.search(r"transformer_layer_(\d+)/", path)
        if found:
            depth = num_layers - int(found[1])
        elif "_embedding/" in path or "embedding_norm/" in path:
            depth = num_layers + 1
        else:
            depth = 1 if path.startswith("encoder/") else 0
        scales[path] = decay**depth
    return scales
