"""A run put together: model, optimizer, batches and graphs.

`MaskedLM` learns to fill in words, `Classifier` to tell labels; the rest of a
run does not know which of the two it trains.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from configs import automatic, schema
from input_pipeline import classification, manifest, pretraining, stream
from trainer import modeling
from trainer.training import loop, optimizers
from trainer.training import objective as objective_lib
from trainer.training import step as step_lib
from trainer.training import strategy as strategy_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainee:
    """A model, what it learns from, and where.

    Attributes:
      config: of the run.
      train: its section, as this stage uses it.
      seed: of the order of rows, of masks and of dropout.
      best_by: the mean of validation that decides the best checkpoint.
      strategy: where it computes.
      prepared: the rows.
      arithmetic: precision and XLA.
      plan: how many steps, and at which of them something happens.
      model: with its weights.
      variables: those that are trained.
      optimizer: built for them.
      schedule: its section, as this stage uses it.
      stage: names checkpoints and metrics.
    """

    config: schema.Config
    train: schema.TrainConfig
    seed: int
    best_by: str
    strategy: tf.distribute.Strategy
    prepared: manifest.Prepared
    arithmetic: strategy_lib.Arithmetic
    plan: loop.Plan
    model: Any
    variables: list[keras.Variable]
    optimizer: keras.optimizers.Optimizer
    schedule: schema.OptimizerConfig
    stage: str

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
        rows = strategy_lib.check_batch(self.strategy, self.train)
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
        # Without an end: several workers would agree about it at every batch,
        # and TensorFlow would forget the number of rows.
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
        """Distributed batches of the first steps, kept in memory, repeated."""

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
        return strategy_lib.distribute(
            self.strategy,
            lambda index, count, num_replicas: create_batches(
                self.prepared,
                self.config,
                shard=stream.Shard(index, count),
                num_replicas=num_replicas,
            ),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(Trainee):
    """Pretraining: an encoder and its masked-LM head.

    Attributes:
      rare_rates: for `plan.two_level_steps`; None where there are none.
    """

    rare_rates: np.ndarray | None = None

    create_training_batches = staticmethod(pretraining.training_batches)
    create_validation_batches = staticmethod(pretraining.validation_batches)

    def in_two_levels(self, rare_rates: np.ndarray | None) -> "MaskedLM":
        """The same with `train.full_softmax_rate`; None changes nothing."""
        rate = self.train.full_softmax_rate
        steps = round((1 - rate) * self.plan.num_steps)
        if rare_rates is None or not steps:
            return self
        plan = dataclasses.replace(self.plan, two_level_steps=steps)
        return dataclasses.replace(self, plan=plan, rare_rates=rare_rates)

    def objective(  # noqa: D102
        self,
        batch: step_lib.Batch,
        step: tf.Tensor,
        first_row: tf.Tensor,
        rare_rates: np.ndarray | None = None,
    ) -> objective_lib.Sums:
        predictions = self.model.predictions(
            batch, noise=self._noise(step, first_row)
        )
        return objective_lib.masked_lm(
            predictions, batch, rare_rates=rare_rates
        )

    def create_train_call(self, stop: tf.Variable) -> Callable[..., Any]:
        """The same; all steps of a call lie on one side of the change."""
        full = super().create_train_call(stop)
        if self.rare_rates is None:
            return full
        step = dataclasses.replace(
            self.create_step(),
            objective=functools.partial(
                self.objective, rare_rates=self.rare_rates
            ),
        )
        early = step_lib.create_train_call(self.strategy, step, stop)

        def call(
            iterator: Any, first_step: tf.Tensor, number: tf.Tensor
        ) -> Any:
            is_early = int(first_step) < self.plan.two_level_steps
            return (early if is_early else full)(iterator, first_step, number)

        return call

    def create_evaluate(self) -> Callable[[], dict[str, float]]:
        """The same, and `perplexity`."""
        evaluate = super().create_evaluate()

        def with_perplexity() -> dict[str, float]:
            means = evaluate()
            if "loss" in means:
                means["perplexity"] = math.exp(min(means["loss"], 80.0))
            return means

        return with_perplexity

    def evaluation_objective(  # noqa: D102
        self, batch: step_lib.Batch
    ) -> objective_lib.Sums:
        return objective_lib.masked_lm_by_kind(
            self.model.predictions(batch),
            batch,
            mask_id=self.prepared.tokenizer.special.mask,
        )


class Classifier(Trainee):
    """Fine-tuning: an encoder and its classifier head."""

    create_training_batches = staticmethod(classification.training_batches)
    create_validation_batches = staticmethod(classification.validation_batches)

    def objective(  # noqa: D102
        self, batch: step_lib.Batch, step: tf.Tensor, first_row: tf.Tensor
    ) -> objective_lib.Sums:
        noise = self._noise(step, first_row)
        tokenizer = self.prepared.tokenizer
        shown = modeling.drop_words(
            batch["token_ids"],
            noise,
            rate=self.config.finetune.word_dropout,
            is_special=tokenizer.is_special,
            unknown_id=tokenizer.special.unknown,
        )
        logits = self.model({**batch, "token_ids": shown}, noise=noise)
        return objective_lib.classification(logits, batch)

    def evaluation_objective(  # noqa: D102
        self, batch: step_lib.Batch
    ) -> objective_lib.Sums:
        return objective_lib.classification(self.model(batch), batch)


def create_masked_lm(
    config: schema.Config,
    strategy: tf.distribute.Strategy,
    prepared: manifest.Prepared,
    arithmetic: strategy_lib.Arithmetic,
) -> MaskedLM:
    """The model and its optimizer, with variables in the strategy's scope."""
    num_rows = prepared.roles["train"].num_rows
    plan = loop.Plan.of(config.train, config, num_rows)
    with strategy.scope():
        model = modeling.create_masked_lm(
            config.model,
            vocabulary_size=prepared.tokenizer.vocabulary_size,
            sequence_length=prepared.sequence_length,
            seed=config.seed,
            dtype=arithmetic.policy,
        )
        model.encoder.rematerialize = config.train.rematerialize
        optimizer = optimizers.create(
            config.optimizer,
            model.trainable_variables,
            num_steps=plan.num_steps,
            precision=arithmetic.precision,
        )
    return MaskedLM(
        config=config,
        train=config.train,
        seed=config.seed,
        best_by="loss",
        strategy=strategy,
        prepared=prepared,
        arithmetic=arithmetic,
        plan=plan,
        model=_for_callbacks(model, optimizer),
        variables=model.trainable_variables,
        optimizer=optimizer,
        schedule=config.optimizer,
        stage="pretrain",
    )


def create_classifiers(
    config: schema.Config,
    strategy: tf.distribute.Strategy,
    prepared: manifest.Prepared,
    arithmetic: strategy_lib.Arithmetic,
    stage: str = "finetune",
) -> list[Classifier]:
    """One model, and who trains it in turn: the head alone, then everything.

    The first, `stage` with "_frozen" behind, is left out where
    `finetune.frozen_epochs` is 0. The encoder's weights are those of
    `finetune.seed`, until somebody assigns others.
    """
    with strategy.scope():
        model = modeling.create_classifier(
            config.model,
            config.finetune,
            vocabulary_size=prepared.tokenizer.vocabulary_size,
            sequence_length=prepared.sequence_length,
            num_classes=len(prepared.labels),
            dtype=arithmetic.policy,
        )
        model.encoder.rematerialize = config.train.rematerialize
    finetune, trainees = config.finetune, []
    stages = [(stage, finetune.num_steps, finetune.num_epochs, model)]
    if finetune.frozen_epochs:
        stages.insert(
            0, (f"{stage}_frozen", 0, finetune.frozen_epochs, model.head)
        )
    for name, num_steps, num_epochs, trained in stages:
        variables = trained.trainable_variables
        plan = loop.Plan.of(
            dataclasses.replace(
                finetune_section(config),
                num_steps=num_steps,
                num_epochs=num_epochs,
            ),
            config,
            prepared.roles["train"].num_rows,
            enough=automatic.finetuning_steps,
        )
        schedule = dataclasses.replace(
            config.optimizer,
            learning_rate=finetune.learning_rate,
            schedule=finetune.schedule,
            warmup_steps=round(finetune.warmup_rate * plan.num_steps),
            final_rate=0.0,
            weight_decay=finetune.weight_decay,
        )
        with strategy.scope():
            optimizer = optimizers.create(
                schedule,
                variables,
                num_steps=plan.num_steps,
                precision=arithmetic.precision,
                rate_scales=optimizers.layer_scales(
                    [variable.path for variable in variables],
                    num_layers=config.model.num_layers,
                    decay=finetune.layer_decay,
                ),
                average_decay=automatic.average_decay(finetune, plan.num_steps),
            )
        trainees.append(
            Classifier(
                config=config,
                train=finetune_section(config),
                seed=finetune.seed,
                best_by=config.checkpoint.best_by,
                strategy=strategy,
                prepared=prepared,
                arithmetic=arithmetic,
                plan=plan,
                model=_for_callbacks(model, optimizer),
                variables=variables,
                optimizer=optimizer,
                schedule=schedule,
                stage=name,
            )
        )
    return trainees


def finetune_section(config: schema.Config) -> schema.TrainConfig:
    """The section `train` as fine-tuning uses it."""
    return dataclasses.replace(
        config.train,
        global_batch_size=config.finetune.global_batch_size,
        steps_per_epoch=0,
    )


def _for_callbacks(
    model: keras.Model, optimizer: keras.optimizers.Optimizer
) -> keras.Model:
    """The model with what Keras callbacks look for on it."""
    model.optimizer = optimizer
    model.stop_training = False
    return model
