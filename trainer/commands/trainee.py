"""A masked-LM run put together: model, optimizer, batches and graphs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from configs import schema
from input_pipeline import manifest, pretraining, stream
from trainer import modeling
from trainer.training import loop, objective, optimizers
from trainer.training import step as step_lib
from trainer.training import strategy as strategy_lib


@dataclasses.dataclass(frozen=True)
class Trainee:
    """A model, what it learns from, and where."""

    config: schema.Config
    strategy: tf.distribute.Strategy
    prepared: manifest.Prepared
    arithmetic: strategy_lib.Arithmetic
    plan: loop.Plan
    model: modeling.MaskedLM
    optimizer: keras.optimizers.Optimizer

    def create_train_call(self, stop: tf.Variable) -> Callable[..., Any]:
        """From `step.create_train_call`, with the masked-LM objective."""
        step = step_lib.Step(
            objective=self._objective,
            sum_names=objective.MASKED_LM_SUMS,
            variables=self.model.trainable_variables,
            optimizer=self.optimizer,
            rows_per_replica=strategy_lib.check_batch(
                self.strategy, self.config.train
            ),
            accumulation_steps=self.config.train.accumulation_steps,
            jit=self.arithmetic.jit,
        )
        return step_lib.create_train_call(self.strategy, step, stop)

    def create_evaluate(self) -> Callable[[], dict[str, float]]:
        """() -> means over the validation rows; {} where there are none."""
        num_rows = self.prepared.roles["validation"].num_rows
        if not num_rows:
            return dict
        mask_id = self.prepared.tokenizer.special.mask
        call = step_lib.create_evaluation_call(
            self.strategy,
            lambda batch: objective.masked_lm_by_kind(
                self.model.predictions(batch), batch, mask_id=mask_id
            ),
            jit=self.arithmetic.jit,
        )
        # Without an end: several workers would agree about it at every batch,
        # and TensorFlow would forget the number of rows.
        batches = self._distribute(
            lambda *args, **shard: pretraining.validation_batches(
                *args, **shard
            ).repeat()
        )
        size = self.config.train.global_batch_size
        return lambda: loop.evaluate(call, batches, -(-num_rows // size))

    def batches(self, first_step: int) -> Any:
        """Distributed training batches from a step on."""
        return self._distribute(
            functools.partial(
                pretraining.training_batches, first_step=first_step
            )
        )

    def learning_rate(self, step: int) -> float:
        """The rate that the update after this many steps uses."""
        schedule = optimizers.Schedule(
            self.config.optimizer, self.plan.num_steps
        )
        return float(schedule(tf.constant(step)))

    def _distribute(self, create_batches: Callable[..., Any]) -> Any:
        return strategy_lib.distribute(
            self.strategy,
            lambda index, count, num_replicas: create_batches(
                self.prepared,
                self.config,
                shard=stream.Shard(index, count),
                num_replicas=num_replicas,
            ),
        )

    def _objective(
        self, batch: step_lib.Batch, step: tf.Tensor, first_row: tf.Tensor
    ) -> objective.Sums:
        noise = modeling.create_noise(
            self.config.seed, step=step, first_row=first_row
        )
        predictions = self.model.predictions(batch, noise=noise)
        return objective.masked_lm(predictions, batch)


def create(
    config: schema.Config,
    strategy: tf.distribute.Strategy,
    prepared: manifest.Prepared,
    arithmetic: strategy_lib.Arithmetic,
) -> Trainee:
    """The model and its optimizer, with variables in the strategy's scope."""
    plan = create_plan(config, prepared)
    with strategy.scope():
        model = modeling.create_masked_lm(
            config.model,
            vocabulary_size=prepared.tokenizer.vocabulary_size,
            sequence_length=prepared.sequence_length,
            seed=config.seed,
            dtype=arithmetic.policy,
        )
        optimizer = optimizers.create(
            config.optimizer,
            model.trainable_variables,
            num_steps=plan.num_steps,
            precision=arithmetic.precision,
        )
    # Keras callbacks look for both on the model.
    model.optimizer = optimizer
    model.stop_training = False
    return Trainee(
        config, strategy, prepared, arithmetic, plan, model, optimizer
    )


def create_plan(
    config: schema.Config, prepared: manifest.Prepared
) -> loop.Plan:
    """How many steps, and at which of them something happens."""
    train = config.train
    num_rows = prepared.roles["train"].num_rows
    per_epoch = train.steps_per_epoch or -(-num_rows // train.global_batch_size)
    return loop.Plan(
        num_steps=train.num_steps or train.num_epochs * per_epoch,
        steps_per_epoch=per_epoch,
        steps_per_call=train.steps_per_call,
        log_every=train.log_every,
        evaluate_every=config.evaluation.every_steps,
        checkpoint_every=config.checkpoint.every_steps,
    )


def resolve(
    strategy: tf.distribute.Strategy,
    train: schema.TrainConfig,
    recorded: dict[str, Any],
) -> strategy_lib.Arithmetic:
    """What `auto` means: as when the run began, else by device.

    Args:
      strategy: where this run computes.
      train: the section `train`.
      recorded: from `workdir.check`; {} = the run begins now.
    """
    before = recorded.get("resolved", {})
    if before and train.precision == "auto":
        train = dataclasses.replace(train, precision=before["precision"])
    # A TPU refuses to be asked for XLA: it is always on there.
    if before and train.jit == "auto" and not strategy_lib.is_tpu(strategy):
        train = dataclasses.replace(train, jit="on" if before["jit"] else "off")
    return strategy_lib.resolve(strategy, train)
