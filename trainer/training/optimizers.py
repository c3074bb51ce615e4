"""AdamW for gradients that the step has already reduced, and its schedule."""

import math
from collections.abc import Iterable

import keras
import tensorflow as tf

from configs import schema

# Variables whose last name is one of these are not decayed.
_NOT_DECAYED = ("bias", "gamma", "beta")


class FusedAdamW(keras.optimizers.AdamW):
    """Keras' AdamW (Loshchilov and Hutter, 2019), one fused op a variable.

    Keras would sum the gradients over the replicas once more, and after it
    has clipped them; this one takes them as they are. `update_step` computes
    the same as Keras' with one pass over memory instead of six.
    """

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
        step = tf.cast(self.iterations.value + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.constant(self.beta_1), step),
            beta2_power=tf.pow(tf.constant(self.beta_2), step),
            lr=tf.cast(learning_rate, tf.float32),
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
    """

    def __init__(self, config: schema.OptimizerConfig, num_steps: int):
        super().__init__()
        if config.warmup_steps > num_steps:
            raise ValueError(
                f"optimizer.warmup_steps={config.warmup_steps} must not exceed"
                f" the {num_steps} steps of the run."
            )
        self._config = config
        self._num_steps = num_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of a step (0, 1, ...), float32 []."""
        config = self._config
        step = tf.cast(step, tf.float32)
        decay_steps = max(1, self._num_steps - config.warmup_steps)
        done = tf.clip_by_value(
            (step - config.warmup_steps) / decay_steps, 0.0, 1.0
        )
        left = {
            "constant": tf.ones_like(done),
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + tf.cos(math.pi * done)),
        }[config.schedule]
        rate = config.final_rate + (1.0 - config.final_rate) * left
        if config.warmup_steps:
            rate *= tf.minimum(1.0, (step + 1.0) / config.warmup_steps)
        return config.learning_rate * rate


def create(
    config: schema.OptimizerConfig,
    variables: list[keras.Variable],
    *,
    num_steps: int,
    precision: str,
) -> keras.optimizers.Optimizer:
    """An optimizer, built for `variables`; call it in the strategy's scope.

    float16 comes with a dynamic loss scale, which is safe here because the
    gradients it looks at are those of all replicas.
    """
    optimizer = FusedAdamW(
        learning_rate=Schedule(config, num_steps),
        weight_decay=config.weight_decay,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        epsilon=config.epsilon,
        global_clipnorm=config.clip_norm or None,
        name="adamw",
    )
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in variables if v.path.split("/")[-1] in _NOT_DECAYED]
    )
    if precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, name="loss_scale"
        )
    optimizer.build(variables)
    return optimizer
