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
      rare_rates: for `plan.two_level_steps`; None if there are no such steps.
    """

    rare_rates: np.ndarray | None = None

    create_training_batches = staticmethod(pretraining.training_batches)
    create_validation_batches = staticmethod(pretraining.validation_batches)

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
        if not self.plan.two_level_steps:
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
    frequencies: np.ndarray | None = None,
) -> PretrainingTask:
    """The model and its optimizer, with variables in the strategy's scope.

    Args:
      config: of the run.
      strategy: where it computes.
      prepared: the rows.
      arithmetic: precision and XLA.
      made_from: what the encoder comes from, kind -> id.
      frequencies: their logarithms, float32 [V], to begin with; None = the
        model does not know them.
    """
    num_rows, rare_rates = prepared.roles["train"].num_rows, None
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
    if frequencies is not None:
        # Without them the softmax learns the frequencies first, through the
        # table that it shares: rare words are pushed into one corner.
        model.head.bias.assign(frequencies)
        rare_rates = pretraining.rare_rates(frequencies)
    if rare_rates is not None:
        steps = round((1 - config.train.full_softmax_rate) * plan.num_steps)
        plan = dataclasses.replace(plan, two_level_steps=steps)
    return PretrainingTask(
        config=config,
        train=config.train,
        seed=config.seed,
        best_by="loss",
        strategy=strategy,
        prepared=prepared,
        arithmetic=arithmetic,
        plan=plan,
        rare_rates=rare_rates,
        model=model,
        variables=model.trainable_variables,
        optimizer=optimizer,
        schedule=config.optimizer,
        stage="pretrain",
        artifact=chain.Artifact.of("encoder", config, made_from or {}),
    )
