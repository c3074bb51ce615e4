"""`--mode=pretrain`: rows to an encoder, by filling in masked tokens."""

import functools
from collections.abc import Sequence
from typing import Any

import keras

import storage
from configs import runtime as runtime_lib
from configs import schema
from input_pipeline import manifest, pretraining
from trainer import workdir as workdir_lib
from trainer.commands import (
    budget,
    fill_ins,
    prepare,
    prompts,
    stage,
    starting_point,
)
from trainer.commands import trainee as trainee_lib
from trainer.training import metrics, signals
from trainer.training import strategy as strategy_lib


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: runtime_lib.Runtime,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains, or goes on where the workdir stopped, until all steps are done.

    Where it starts from: see `starting_point`.

    Args:
      config: what to train.
      workdir: where everything of this run lies.
      runtime: on which devices.
      callbacks: Keras callbacks, driven as `fit` would.

    Raises:
      ValueError: bad config, input or workdir; one line that says what to do.
      runtime.Stopped: a signal came; the run has been saved before.
    """
    strategy, chief = stage.create_strategy(runtime, config)
    with workdir_lib.locked(workdir, chief=chief):
        recorded = workdir_lib.check(workdir, config)
        strategy_lib.check_batch(strategy, config.train)
        prepared = prepare.open_prepared(config)
        stage.check_text(recorded.get("resolved", {}), prepared)
        arithmetic = strategy_lib.resolve(
            strategy, config.train, recorded.get("resolved")
        )
        stage.require_same_data(strategy, prepared, arithmetic)
        sentences = prompts.choose(config.evaluation, prepared)
        if chief:
            before = workdir_lib.read(workdir).get("resolved", {})
            workdir_lib.record(
                workdir,
                config,
                {
                    **before,
                    **_resolved(prepared, arithmetic),
                    "sentences": [*sentences],
                },
            )
            # Whoever starts from this run needs it, wherever its data went.
            prepared.tokenizer.save(storage.path_of(workdir))
        from_nothing = config.model.tie_embeddings and not config.init_from
        if from_nothing:
            frequencies = pretraining.log_frequencies(prepared)

        def create(config: schema.Config) -> trainee_lib.MaskedLM:
            trainee = trainee_lib.create_masked_lm(
                config, strategy, prepared, arithmetic
            )
            if not from_nothing:
                return trainee
            # Without them the softmax learns the frequencies first, through
            # the table that it shares: rare words are pushed into one corner.
            trainee.model.head.bias.assign(frequencies)
            return trainee.in_two_levels(pretraining.rare_rates(frequencies))

        config = budget.decide(config, workdir, "pretrain", create, chief=chief)
        trainee = create(config)
        if source := starting_point.source(config, workdir, trainee.stage):
            starting_point.load(config, source, trainee.model.variables)
        shown = fill_ins.FillIns(
            sentences,
            prepared.tokenizer,
            top_k=config.evaluation.top_k,
            record=functools.partial(metrics.append, workdir, trainee.stage),
        )
        with signals.StopSignal() as stop:
            stage.train(
                trainee,
                workdir,
                stop,
                [*([shown] * chief), *callbacks],
                chief=chief,
                hints=[f"encoder: trainer.modeling.load_encoder({workdir!r})"],
            )


def _resolved(
    prepared: manifest.Prepared, arithmetic: strategy_lib.Arithmetic
) -> dict[str, Any]:
    return {
        "precision": arithmetic.precision,
        "jit": arithmetic.jit,
        "prepared": str(prepared.directory),
        "fingerprint": prepared.fingerprint,
        "vocabulary_size": prepared.tokenizer.vocabulary_size,
    }
