"""`--mode=pretrain`: rows to an encoder, by filling in masked tokens."""

import functools
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from configs import runtime as runtime_lib
from configs import schema
from input_pipeline import manifest
from trainer import checkpoint
from trainer import workdir as workdir_lib
from trainer.commands import fill_ins, prepare
from trainer.commands import trainee as trainee_lib
from trainer.report import progress
from trainer.training import loop, metrics, signals
from trainer.training import strategy as strategy_lib

_log = logging.getLogger(__name__)
STAGE = "pretrain"


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: runtime_lib.Runtime,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains, or goes on where the workdir stopped, until all steps are done.

    Starting order: the newest good checkpoint of the workdir, else scratch.

    Args:
      config: what to train.
      workdir: where everything of this run lies.
      runtime: on which devices.
      callbacks: Keras callbacks, driven as `fit` would.

    Raises:
      ValueError: bad config, input or workdir; one line that says what to do.
      runtime.Stopped: a signal came; the run has been saved before.
    """
    strategy = strategy_lib.create(
        runtime.strategy, num_virtual_devices=runtime.num_virtual_devices
    )
    chief = strategy_lib.is_chief(strategy)
    if not chief:
        logging.getLogger("trainer").setLevel(logging.WARNING)
    with workdir_lib.locked(workdir, chief=chief):
        recorded = workdir_lib.check(workdir, config)
        strategy_lib.check_batch(strategy, config.train)
        prepared = prepare.open_prepared(config)
        _check_text(recorded.get("resolved", {}), prepared)
        arithmetic = trainee_lib.resolve(strategy, config.train, recorded)
        if chief:
            workdir_lib.record(workdir, config, _resolved(prepared, arithmetic))
        trainee = trainee_lib.create(config, strategy, prepared, arithmetic)
        try:
            with signals.StopSignal() as stop:
                _train(trainee, workdir, stop, callbacks, chief=chief)
        except tf.errors.DataLossError:
            manifest.open_prepared(prepared.directory)  # Names the file.
            raise
        except tf.errors.ResourceExhaustedError as error:
            if "No space left" in str(error):
                raise
            raise ValueError(
                "Out of memory. Raise train.accumulation_steps, lower"
                " train.global_batch_size, or lower data.sequence_length:"
                f" {str(error).splitlines()[0]}"
            ) from error


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


def _train(
    trainee: trainee_lib.Trainee,
    workdir: str,
    stop: signals.StopSignal,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    chief: bool,
) -> None:
    config, plan, model = trainee.config, trainee.plan, trainee.model
    checkpoints = checkpoint.Checkpoints(
        pathlib.Path(workdir) / "checkpoints" / STAGE,
        keep_last=config.checkpoint.keep_last,
    )
    state = checkpoints.restore(
        weights=model.variables, optimizer=trainee.optimizer.variables
    )
    _check_text(state, trainee.prepared)
    first_step = saved = int(state.get("step", 0))
    _announce(trainee, first_step)

    def save(step: int, validation_loss: float | None) -> None:
        nonlocal saved
        if chief:
            checkpoints.save(
                _state(trainee, step, validation_loss),
                weights=model.variables,
                optimizer=trainee.optimizer.variables,
            )
        saved = step

    shown = [
        progress.Progress(plan.num_steps),
        fill_ins.FillIns(
            config.evaluation,
            trainee.prepared.tokenizer,
            record=functools.partial(metrics.append, workdir, STAGE),
        ),
    ]
    try:
        if first_step < plan.num_steps:
            with metrics.MetricsLog(
                workdir, stage=STAGE, first_step=first_step, enabled=chief
            ) as metrics_log:
                loop.Loop(
                    plan=plan,
                    train_call=trainee.create_train_call(stop.flag),
                    evaluate=trainee.create_evaluate(),
                    save=save,
                    learning_rate=trainee.learning_rate,
                    metrics=metrics_log,
                    callbacks=keras.callbacks.CallbackList(
                        [*(shown if chief else []), *callbacks],
                        model=model,
                        epochs=-(-plan.num_steps // plan.steps_per_epoch),
                        steps=plan.steps_per_epoch,
                        verbose=0,
                    ),
                    stop=stop,
                ).run(iter(trainee.batches(first_step)), first_step=first_step)
    except runtime_lib.Stopped:
        _say_what_is_there(workdir, saved, plan.num_steps)
        raise
    _say_what_is_there(workdir, saved, plan.num_steps)


def _check_text(facts: dict[str, Any], prepared: manifest.Prepared) -> None:
    """Refuses to go on with other text than that of `facts`, if any."""
    before = facts.get("fingerprint", prepared.fingerprint)
    if before != prepared.fingerprint:
        raise ValueError(
            f"The run was trained on data {before}, but the source now gives"
            f" {prepared.fingerprint}: the text has changed. Restore it, or"
            " choose another --workdir."
        )


def _state(
    trainee: trainee_lib.Trainee, step: int, validation_loss: float | None
) -> dict[str, Any]:
    state = {
        "step": step,
        "seed": trainee.config.seed,
        "global_batch_size": trainee.config.train.global_batch_size,
        "precision": trainee.arithmetic.precision,
        "jit": trainee.arithmetic.jit,
        "fingerprint": trainee.prepared.fingerprint,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    if validation_loss is not None:
        state["validation_loss"] = validation_loss
    return state


def _announce(trainee: trainee_lib.Trainee, first_step: int) -> None:
    config, plan, strategy = trainee.config, trainee.plan, trainee.strategy
    trainee.model.summary(print_fn=_log.info, line_length=80)
    replicas = strategy.num_replicas_in_sync
    micro = config.train.accumulation_steps
    _log.info("%s", strategy_lib.describe(strategy))
    _log.info(
        "precision %s, XLA %s, %s parameters",
        trainee.arithmetic.precision,
        "on" if trainee.arithmetic.jit else "off",
        f"{trainee.model.count_params():,}",
    )
    _log.info(
        "batch %d rows = %d replica(s) x %d micro-batch(es) x %d; %s steps in"
        " epochs of %s",
        config.train.global_batch_size,
        replicas,
        micro,
        config.train.global_batch_size // replicas // micro,
        f"{plan.num_steps:,}",
        f"{plan.steps_per_epoch:,}",
    )
    if first_step >= plan.num_steps:
        _log.info("all %d steps are done already", plan.num_steps)
    elif first_step:
        _log.info("resuming from step %d", first_step)


def _say_what_is_there(workdir: str, saved: int, num_steps: int) -> None:
    """The last lines of a run that is done or was asked to stop."""
    _log.info(
        "saved:   step %d of %d; %s holds checkpoints/%s, metrics.jsonl,"
        " tensorboard",
        saved,
        num_steps,
        workdir,
        STAGE,
    )
    _log.info("curves:  tensorboard --logdir %s", workdir)
    _log.info("encoder: trainer.modeling.load_encoder(%r)", workdir)
    if saved < num_steps:
        _log.info("go on:   the same command again")
    else:
        _log.info(
            "go on:   the same command with --config.train.num_steps=%d",
            2 * num_steps,
        )
