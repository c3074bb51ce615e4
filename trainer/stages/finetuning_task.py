"""Fine-tuning: an encoder and a classifier head learn from labels."""

import dataclasses

import numpy as np
import tensorflow as tf

from configs import automatic, schema
from input_pipeline import classification, manifest
from trainer import chain, modeling
from trainer.stages import decisions, tasks
from trainer.training import loop, optimizers, strategies
from trainer.training import objective as objective_lib
from trainer.training import step as step_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuningTask(tasks.Task):
    """An encoder and its classifier head, which learn from labels.

    Attributes:
      class_weights: float32 [C], see `decisions.class_weights`.
    """

    class_weights: np.ndarray

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
        return objective_lib.classification(logits, batch, self.class_weights)

    def evaluation_objective(  # noqa: D102
        self, batch: step_lib.Batch
    ) -> objective_lib.Sums:
        logits = self.model(batch)
        return objective_lib.classification(logits, batch, self.class_weights)


def create(
    config: schema.Config,
    strategy: tf.distribute.Strategy,
    prepared: manifest.Prepared,
    arithmetic: strategies.Arithmetic,
    stage: str = "finetune",
    *,
    made_from: dict[str, str] | None = None,
) -> list[FinetuningTask]:
    """The tasks that train one model in turn: the head alone, then everything.

    The first, `stage` + "_frozen", is left out where `finetune.frozen_epochs`
    is 0. `made_from` says what the classifier comes from: kind -> id.
    """
    with strategy.scope():
        model = modeling.create_classifier(
            config.model,
            config.finetune,
            vocabulary_size=prepared.tokenizer.vocabulary_size,
            sequence_length=prepared.sequence_length,
            num_classes=len(prepared.labels),
            multilabel=prepared.multilabel,
            dtype=arithmetic.policy,
        )
        model.encoder.rematerialize = config.train.rematerialize
    num_rows = prepared.roles["train"].num_rows
    artifact = chain.Artifact.of("classifier", config, made_from or {})
    finetune, created = config.finetune, list[FinetuningTask]()
    stages = [(stage, finetune.num_steps, finetune.num_epochs, model)]
    if finetune.frozen_epochs:
        frozen = (f"{stage}_frozen", 0, finetune.frozen_epochs, model.head)
        stages.insert(0, frozen)
    for name, num_steps, num_epochs, trained in stages:
        variables = trained.trainable_variables
        train = dataclasses.replace(
            training_section(config), num_steps=num_steps, num_epochs=num_epochs
        )
        plan = loop.Plan.of(
            train, config, num_rows, enough=automatic.finetuning_steps
        )
        schedule = optimizer_section(config, plan.num_steps)
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
        created.append(
            FinetuningTask(
                config=config,
                train=train,
                seed=finetune.seed,
                best_by=config.checkpoint.best_by,
                strategy=strategy,
                prepared=prepared,
                arithmetic=arithmetic,
                plan=dataclasses.replace(plan, patience=finetune.patience),
                model=model,
                variables=variables,
                optimizer=optimizer,
                schedule=schedule,
                stage=name,
                artifact=artifact,
                class_weights=decisions.class_weights(finetune, prepared),
            )
        )
    return created


def optimizer_section(
    config: schema.Config, num_steps: int
) -> schema.OptimizerConfig:
    """The section `optimizer` as fine-tuning uses it."""
    finetune = config.finetune
    return dataclasses.replace(
        config.optimizer,
        learning_rate=finetune.learning_rate,
        schedule=finetune.schedule,
        warmup_steps=round(finetune.warmup_rate * num_steps),
        final_rate=0.0,
        weight_decay=finetune.weight_decay,
    )


def training_section(config: schema.Config) -> schema.TrainConfig:
    """The section `train` as fine-tuning uses it."""
    return dataclasses.replace(
        config.train,
        global_batch_size=config.finetune.global_batch_size,
        steps_per_epoch=0,
    )
