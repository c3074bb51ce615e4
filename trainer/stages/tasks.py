"""What a stage trains: a model, its objective, its batches and its optimizer.

Pretraining and fine-tuning are two tasks; the rest of a stage does not know
which of the two it trains.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import tensorflow as tf

from configs import schema
from input_pipeline import manifest, stream
from trainer import chain, modeling
from trainer.training import loop, optimizers, strategies
from trainer.training import objective as objective_lib
from trainer.training import step as step_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A model, what it learns from, and where.

    Attributes:
      config: of the run.
      train: its section, as this stage uses it.
      seed: for the order of rows, the masks and dropout.
      best_by: which mean of validation decides the best checkpoint.
      strategy: where it computes.
      prepared: the rows.
      arithmetic: precision and XLA.
      plan: how many steps, and at which of them something happens.
      model: with its weights.
      variables: those that are trained.
      optimizer: built for them.
      schedule: its section, as this stage uses it.
      stage: names checkpoints and metrics.
      artifact: what the stage makes, before its first step.
    """

    config: schema.Config
    train: schema.TrainConfig
    seed: int
    best_by: str
    strategy: tf.distribute.Strategy
    prepared: manifest.Prepared
    arithmetic: strategies.Arithmetic
    plan: loop.Plan
    model: Any
    variables: list[keras.Variable]
    optimizer: keras.optimizers.Optimizer
    schedule: schema.OptimizerConfig
    stage: str
    artifact: chain.Artifact

    # (prepared, config, first_step=, shard=, num_replicas=) -> data set
    create_training_batches: ClassVar[Callable[..., tf.data.Dataset]]
    create_validation_batches: ClassVar[Callable[..., tf.data.Dataset]]

    def objective(
        self, batch: step_lib.Batch, step: tf.Tensor, first_row: tf.Tensor
    ) -> objective_lib.Sums:
        """What training minimises, see `step.Objective`."""
        raise NotImplementedError

    def evaluation_objective(self, batch: step_lib.Batch) -> objective_lib.Sums:
        """What validation adds up."""
        raise NotImplementedError

    def create_step(self) -> step_lib.Step:
        """What a replica computes."""
        rows = strategies.check_batch(self.strategy, self.train)
        return step_lib.Step(
            objective=self.objective,
            sum_names=objective_lib.SUMS,
            variables=self.variables,
            optimizer=self.optimizer,
            clip_norm=self.config.optimizer.clip_norm,
            rows_per_replica=rows,
            accumulation_steps=self.train.accumulation_steps,
            jit=self.arithmetic.jit,
            steps_per_program=self.train.steps_per_program,
        )

    def create_train_call(self, stop: tf.Variable) -> Callable[..., Any]:
        """From `step.create_train_call`."""
        return step_lib.create_train_call(
            self.strategy, self.create_step(), stop
        )

    def create_evaluate(self) -> Callable[[], dict[str, float]]:
        """() -> means over the validation rows; {} where there are none."""
        num_rows = self.prepared.roles["validation"].num_rows
        if not num_rows:
            return dict
        call = step_lib.create_evaluation_call(
            self.strategy, self.evaluation_objective, jit=self.arithmetic.jit
        )
        # Endless: with an end, workers would have to agree about it at every
        # batch, and TensorFlow would not know the number of rows.
        batches = self._distribute(
            lambda *args, **shard: self.create_validation_batches(
                *args, **shard
            ).repeat()
        )
        size = self.train.global_batch_size
        return lambda: loop.evaluate(call, batches, -(-num_rows // size))

    def batches(self, first_step: int) -> Any:
        """Distributed training batches from a step on."""
        return self._distribute(
            functools.partial(
                self.create_training_batches, first_step=first_step
            )
        )

    def first_batches(self, number: int) -> Any:
        """Distributed batches of the first steps, cached and repeated."""

        def create(*args: Any, **parts: Any) -> tf.data.Dataset:
            batches = self.create_training_batches(*args, **parts)
            return batches.take(number * parts["num_replicas"]).cache().repeat()

        return self._distribute(create)

    def learning_rate(self, step: int) -> float:
        """The rate that the update after this many steps uses."""
        schedule = optimizers.Schedule(self.schedule, self.plan.num_steps)
        return float(schedule(tf.constant(step)))

    def _noise(self, step: tf.Tensor, first_row: tf.Tensor) -> modeling.Noise:
        return modeling.create_noise(self.seed, step=step, first_row=first_row)

    def _distribute(self, create_batches: Callable[..., Any]) -> Any:
        return strategies.distribute(
            self.strategy,
            lambda index, count, num_replicas: create_batches(
                self.prepared,
                self.config,
                shard=stream.Shard(index, count),
                num_replicas=num_replicas,
            ),
        )
