"""`--mode=finetune`: an encoder and labelled text to a classifier."""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

import storage
from configs import runtime as runtime_lib
from configs import schema
from input_pipeline import classification, labelled, manifest
from trainer import checkpoint, ngrams
from trainer import workdir as workdir_lib
from trainer.commands import (
    budget,
    prepare,
    seeds,
    self_training,
    stage,
    starting_point,
)
from trainer.commands import trainee as trainee_lib
from trainer.training import metrics, signals
from trainer.training import strategy as strategy_lib

_log = logging.getLogger(__name__)
# Training accuracy that rises by more in a fifth of the steps, and is not yet
# that high, shows that there was more to learn.
_RISING, _LEARNED = 0.02, 0.99
_FEW_DOCUMENTS = 20
_MOST_CLASSES = 10  # Of which a line says how many documents they have.


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: runtime_lib.Runtime,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains, or goes on where the workdir stopped, until all steps are done.

    Where it starts from: see `starting_point`; with `finetune.from_scratch`
    an encoder without pretraining.

    Raises:
      ValueError: bad config, input or workdir, or no encoder to begin with;
        one line that says what to do.
      runtime.Stopped: a signal came; the run has been saved before.
    """
    strategy, chief = stage.create_strategy(runtime, config)
    check(config, strategy)
    with workdir_lib.locked(workdir, chief=chief):
        recorded = workdir_lib.check(workdir, config)
        source, begun_from = "", dict[str, str]()
        if config.finetune.encoder:
            if not config.finetune.from_scratch:
                source = _source(config, workdir)
            encoder = starting_point.encoder_of(workdir, source)
            _require_same_encoder(workdir, recorded, encoder)
            begun_from = {"encoder": encoder}
        prepared = open_labelled(config, workdir)
        unlabelled = self_training.unlabelled(config, prepared)
        arithmetic = strategy_lib.resolve(
            strategy, config.train, recorded.get("resolved")
        )
        stage.require_same_data(strategy, prepared, arithmetic)
        if chief:
            before = workdir_lib.read(workdir).get("resolved", {})
            workdir_lib.record(
                workdir,
                config,
                {
                    **before,
                    **_resolved(prepared, arithmetic),
                    **begun_from,
                },
            )
            prepared.tokenizer.save(storage.path_of(workdir))
            fit_ngrams(config, workdir, prepared)
        if not config.finetune.encoder:
            return

        def train(
            config: schema.Config, rows: manifest.Prepared, name: str
        ) -> trainee_lib.Classifier:
            with signals.StopSignal() as stop:
                trainees = trainee_lib.create_classifiers(
                    config, strategy, rows, arithmetic, name
                )
                if source:
                    starting_point.load(
                        config, source, trainees[-1].model.encoder.variables
                    )
                _train(trainees, workdir, stop, callbacks, chief=chief)
            return trainees[-1]

        config = budget.decide(
            config,
            workdir,
            "finetune",
            lambda config: trainee_lib.create_classifiers(
                config, strategy, prepared, arithmetic
            )[-1],
            share=1
            / (
                config.finetune.num_seeds + config.finetune.self_training_rounds
            ),
            chief=chief,
        )
        stages = []
        for number in range(config.finetune.num_seeds):
            trainee = train(
                seeds.config_of(config, number),
                prepared,
                seeds.stage_of(number),
            )
            stages.append(trainee.stage)
            if chief:
                _warn_if_undertrained(workdir, trainee)
        if len(stages) > 1:
            seeds.average(trainee, stages, workdir, chief=chief)
        if unlabelled:
            self_training.run(
                config,
                workdir,
                strategy,
                prepared,
                unlabelled,
                train,
                chief=chief,
            )


def _train(
    trainees: Sequence[trainee_lib.Classifier],
    workdir: str,
    stop: signals.StopSignal,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    chief: bool,
) -> None:
    """All stages of a model in turn; see `stage.train`."""
    for trainee in _not_passed(trainees, workdir):
        frozen = trainee is not trainees[-1]
        # For the summary; the step trains what it is given.
        trainee.model.encoder.trainable = not frozen
        stage.train(
            trainee,
            workdir,
            stop,
            callbacks,
            chief=chief,
            patience=trainee.config.finetune.patience,
        )


def fit_ngrams(
    config: schema.Config, workdir: str, prepared: manifest.Prepared
) -> None:
    """Fits the n-grams of the labelled rows, once, and says how good they are.

    Args:
      config: nothing is done where `finetune.ngrams` is False.
      workdir: gets `ngrams/`, unless it has those of the same rows.
      prepared: the labelled rows.
    """
    before = ngrams.read_facts(workdir).get("fingerprint", "")
    if not config.finetune.ngrams or before == prepared.fingerprint:
        return
    model, facts = ngrams.fit(
        classification.documents(prepared, config, "train"),
        classification.documents(prepared, config, "validation"),
        is_special=prepared.tokenizer.is_special,
        num_classes=len(prepared.labels),
    )
    model.save(workdir, {**facts, "fingerprint": prepared.fingerprint})
    _log.info(
        "n-grams alone: validation %.1f %% of %s documents after %.0f s; this"
        " is what there is to beat",
        100 * facts["accuracy"],
        f"{facts['validation_documents']:,}",
        facts["seconds"],
    )


def check(config: schema.Config, strategy: tf.distribute.Strategy) -> None:
    """Refuses what cannot be fine-tuned; raises ValueError."""
    if config.model.attend_padding and config.finetune.packing == "fill":
        raise ValueError(
            "model.attend_padding=True lets documents of one row see each"
            " other, which no exported model could repeat; set"
            " finetune.packing=document."
        )
    strategy_lib.check_batch(
        strategy, trainee_lib.finetune_section(config), section="finetune"
    )


def _source(config: schema.Config, workdir: str) -> str:
    """The folder whose encoder is fine-tuned."""
    if path := starting_point.source(config, workdir, "finetune"):
        return path
    raise ValueError(
        f"There is no pretrained encoder in {workdir} (no"
        " checkpoints/pretrain). Run --mode=pretrain first, give a pretrained"
        " --config.init_from, or set finetune.from_scratch for the control"
        " without pretraining."
    )


def has_begun(workdir: str) -> bool:
    """Whether a classifier has been trained there, if only its head."""
    return any(s.startswith("finetune") for s in workdir_lib.stages(workdir))


def _require_same_encoder(
    workdir: str, recorded: dict[str, Any], encoder: str
) -> None:
    """A classifier is not reported beside an encoder that it does not have."""
    before = recorded.get("resolved", {}).get("encoder", encoder)
    if before != encoder and has_begun(workdir):
        raise ValueError(
            f"The classifier in {workdir} was fine-tuned from {before}, but the"
            f" encoder to begin with is now {encoder}. To fine-tune that one,"
            f" use another --workdir with --mode=finetune"
            f" --config.init_from={workdir}, or move {workdir}/checkpoints/"
            "finetune* away. To keep the classifier, go on with --mode=export"
            " and --mode=evaluate."
        )


def prepare_labelled(config: schema.Config) -> pathlib.Path:
    """The directory with `open_labelled`'s rows, made where it is missing."""
    tokenizer = (
        starting_point.tokenizer(config)
        or prepare.open_prepared(config).tokenizer
    )
    return labelled.prepare(config, tokenizer)


def open_labelled(config: schema.Config, workdir: str) -> manifest.Prepared:
    """Labelled rows in the vocabulary of the encoder."""
    prepared = manifest.open_prepared(prepare_labelled(config))
    for role, report in prepared.report.items():
        labels = [f"{k} {n:,}" for k, n in report["labels"].items()]
        if len(labels) > _MOST_CLASSES:
            labels[_MOST_CLASSES:] = [f"{len(labels) - _MOST_CLASSES} more"]
        _log.info(
            "%s: %s documents in %s rows (%.1f %% filled), %s%s",
            role,
            f"{report['documents']:,}",
            f"{report['rows']:,}",
            100 * report["slots_used"] / max(1, report["slots"]),
            ", ".join(labels),
            _cut(config, report["tokens_cut"]),
        )
    if kept := prepared.report["train"]["labels_kept"]:
        _log.warning(
            "kept in training, because their class has no other document: %s;"
            " neither validation nor test says how well they are learned",
            ", ".join(map(repr, kept[:20])),
        )
    number = sum(role["documents"] for role in prepared.report.values())
    if number < _FEW_DOCUMENTS:
        _log.warning(
            "%d labelled documents for training and validation: so few that"
            " validation cannot tell a good classifier from a bad one",
            number,
        )
    return prepared


def _cut(config: schema.Config, tokens: int) -> str:
    if not tokens:
        return ""
    pieces = config.finetune.pieces_per_row
    return (
        f"; cut {tokens:,} tokens: a document has at most {pieces} pieces of"
        f" {config.data.sequence_length} (finetune.pieces_per_row)"
    )


def _not_passed(
    trainees: Sequence[trainee_lib.Classifier], workdir: str
) -> Sequence[trainee_lib.Classifier]:
    """Without the frozen stage, once the next one has begun."""
    begun = checkpoint.of_stage(workdir, trainees[-1].stage).exist()
    return trainees[-1:] if begun else trainees


def _warn_if_undertrained(
    workdir: str, trainee: trainee_lib.Classifier
) -> None:
    """Says so where the last step came too early to have learned it all."""
    last_step = checkpoint.of_stage(workdir, trainee.stage).last_step()
    if last_step < trainee.plan.num_steps:
        return  # More steps did not help: `finetune.patience`.
    before, last = metrics.last_fifths(metrics.read(workdir, trainee.stage))
    if last > before + _RISING and last < _LEARNED:
        _log.warning(
            "WARNING: fine-tuning ended while the training accuracy was still"
            " rising (%.1f %% -> %.1f %%): raise finetune.num_epochs",
            100 * before,
            100 * last,
        )


def _resolved(
    prepared: manifest.Prepared, arithmetic: strategy_lib.Arithmetic
) -> dict[str, Any]:
    return {
        "precision": arithmetic.precision,
        "jit": arithmetic.jit,
        "vocabulary_size": prepared.tokenizer.vocabulary_size,
        "labels": list(prepared.labels),
        "labelled": str(prepared.directory),
        "labelled_fingerprint": prepared.fingerprint,
    }
