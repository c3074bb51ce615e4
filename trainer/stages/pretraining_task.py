"""Pretraining: an encoder learns to fill in masked tokens."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import manifest, pretraining
from trainer import chain, modeling
from trainer.stages import tasks
from trainer.training import loop, optimizers, strategies
from trainer.training import objective as objective_lib
from trainer.training import step as step_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingTask(tasks.Task):
    """An encoder and its masked-LM head, which learn to fill in words.

    Attributes:
      rare_rates: for `plan.two_level_steps`; None where there are none.
    """

    rare_rates: np.ndarray | None = None

    create_training_batches = staticmethod(pretraining.training_batches)
    create_validation_batches = staticmethod(pretraining.validation_batches)

    def in_two_levels(self, rare_rates: np.ndarray | None) -> "PretrainingTask":
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


def create(
    config: schema.Config,
    strategy: tf.distribute.Strategy,
    prepared: manifest.Prepared,
    arithmetic: strategies.Arithmetic,
    *,
    made_from: dict[str, str] | None = None,
) -> PretrainingTask:
    """The model and its optimizer, with variables in the strategy's scope.

    Args:
      config: of the run.
      strategy: where it computes.
      prepared: the rows.
      arithmetic: precision and XLA.
      made_from: of the encoder, kind -> id; None = nobody will ask.
    """
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
    return PretrainingTask(
        config=config,
        train=config.train,
        seed=config.seed,
        best_by="loss",
        strategy=strategy,
        prepared=prepared,
        arithmetic=arithmetic,
        plan=plan,
        model=model,
        variables=model.trainable_variables,
        optimizer=optimizer,
        schedule=config.optimizer,
        stage="pretrain",
        artifact=chain.Artifact.of("encoder", config, made_from or {}),
    )
