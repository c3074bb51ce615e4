"""One stage of a run: from its last checkpoint to its last step."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from configs import runtime, schema
from input_pipeline import manifest
from trainer import checkpoint
from trainer import workdir as workdir_lib
from trainer.commands import trainee as trainee_lib
from trainer.report import progress
from trainer.training import (
    loop,
    metrics,
    optimizers,
    profiling,
    signals,
    workers,
)
from trainer.training import strategy as strategy_lib

_log = logging.getLogger(__name__)
_GO_ON = "go on:   the same command again"


def create_strategy(
    layout: runtime.Runtime, config: schema.Config
) -> tuple[tf.distribute.Strategy, bool]:
    """The strategy, and whether this process is the chief: others are quiet.

    Raises:
      ValueError: there is no such place to compute, or the workers of a
        cluster were started with different configs or packages.
      LostError: a worker did not come.
    """
    strategy = strategy_lib.create(
        layout.strategy, num_virtual_devices=layout.num_virtual_devices
    )
    chief = strategy_lib.is_chief(strategy)
    if not chief:
        logging.getLogger("trainer").setLevel(logging.WARNING)
    facts = config.to_dict()
    for name in workdir_lib.FREE_DATA:
        del facts["data"][name]
    workers.require_equal(
        strategy,
        {**facts, "versions": workdir_lib.versions()},
        remedy="Start all with the same flags, files and packages.",
    )
    return strategy, chief


def require_same_data(
    strategy: tf.distribute.Strategy,
    prepared: manifest.Prepared,
    arithmetic: strategy_lib.Arithmetic,
) -> None:
    """Refuses workers that would read, or compute, something else each."""
    workers.require_equal(
        strategy,
        {
            "data": prepared.fingerprint,
            "precision": arithmetic.precision,
            "XLA": arithmetic.jit,
            "devices": len(strategy.extended.worker_devices),
        },
        remedy="Give all the same text; name train.precision and train.jit"
        " where their devices differ, and let all have as many.",
    )


def train(
    trainee: trainee_lib.Trainee,
    workdir: str,
    stop: signals.StopSignal,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    chief: bool,
    hints: Sequence[str] = (),
    patience: int = 0,
) -> None:
    """Trains to the last step; afterwards the model has the final weights.

    Args:
      trainee: with the weights to begin with, where there is no checkpoint.
      workdir: where everything of this run lies.
      stop: the signals that end the run early.
      callbacks: Keras callbacks, driven as `fit` would.
      chief: whether this process writes.
      hints: lines for the end, for people.
      patience: epochs without a better validation that end it; 0 = none do.

    Raises:
      ValueError: bad checkpoints, a loss that is not finite, no memory left.
      runtime.Stopped: a signal came; the run has been saved before.
    """
    plan = dataclasses.replace(trainee.plan, patience=patience)
    trainee = dataclasses.replace(trainee, plan=plan)
    try:
        _train(trainee, workdir, stop, callbacks, chief=chief, hints=hints)
    except tf.errors.DataLossError:
        manifest.open_prepared(trainee.prepared.directory)  # Names the file.
        raise
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" in str(error):
            raise
        first_line = str(error).splitlines()[0]
        raise ValueError(
            "Out of memory. Raise train.accumulation_steps, set"
            " train.rematerialize=True, lower train.global_batch_size (or"
            f" finetune's) or data.sequence_length: {first_line}"
        ) from error


def _train(
    trainee: trainee_lib.Trainee,
    workdir: str,
    stop: signals.StopSignal,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    chief: bool,
    hints: Sequence[str],
) -> None:
    plan, model, optimizer = trainee.plan, trainee.model, trainee.optimizer
    checkpoints = checkpoint.of_stage(
        workdir,
        trainee.stage,
        keep_last=trainee.config.checkpoint.keep_last,
    )
    state = checkpoints.restore(
        weights=model.variables, optimizer=optimizer.variables
    )
    check_text(state, trainee.prepared)
    first_step = saved = int(state.get("step", 0))
    best = loop.Best(trainee.best_by, **state.get("best", {}))
    # A signal saves at once.
    owes_validation = (
        first_step > 0
        and plan.evaluates(first_step)
        and "validation_loss" not in state
        and trainee.prepared.roles["validation"].num_rows > 0
    )
    _require_same_start(trainee, first_step)
    _announce(trainee, first_step)
    averages = optimizers.Averages(optimizer, trainee.variables)
    evaluate = trainee.create_evaluate()

    def evaluate_averages() -> dict[str, float]:
        with averages.used():
            return evaluate()

    def save(step: int, validation: dict[str, float]) -> None:
        nonlocal saved
        with averages.used():
            if chief:
                checkpoints.save(
                    _state(trainee, step, validation, best),
                    weights=model.variables,
                    optimizer=optimizer.variables,
                )
        saved = step

    try:
        if owes_validation or not plan.finishes(first_step, best.step):
            if first_step:
                averages.swap()  # The checkpoint holds them as its weights.
            with metrics.MetricsLog(
                workdir,
                stage=trainee.stage,
                first_step=first_step,
                enabled=chief,
            ) as metrics_log:
                loop.Loop(
                    plan=plan,
                    train_call=trainee.create_train_call(stop.flag),
                    evaluate=evaluate_averages,
                    save=save,
                    learning_rate=trainee.learning_rate,
                    metrics=metrics_log,
                    callbacks=keras.callbacks.CallbackList(
                        [
                            *([progress.Progress(plan.num_steps)] * chief),
                            *callbacks,
                        ],
                        model=model,
                        epochs=-(-plan.num_steps // plan.steps_per_epoch),
                        steps=plan.steps_per_epoch,
                        verbose=0,
                    ),
                    stop=stop,
                    trace=profiling.Trace(
                        metrics.board_directory(workdir, trainee.stage),
                        plan.profiled if chief else (0, 0),
                    ),
                    best=best,
                ).run(
                    iter(trainee.batches(first_step)),
                    first_step=first_step,
                    validation_due=owes_validation,
                )
            averages.swap()
    except runtime.Stopped:
        _say_what_is_there(trainee, workdir, saved, [_GO_ON])
        raise
    if plan.finishes(saved, best.step):
        if saved < plan.num_steps:
            _log.info(
                "early:   validation %s has not been better than %.4f since"
                " step %d (finetune.patience=%d)",
                best.by,
                best.value,
                best.step,
                plan.patience,
            )
    else:
        hints = [_GO_ON]
    _say_what_is_there(trainee, workdir, saved, hints)


def check_text(facts: dict[str, Any], prepared: manifest.Prepared) -> None:
    """Refuses to go on with other text than that of `facts`, if any."""
    before = facts.get("fingerprint", prepared.fingerprint)
    if before != prepared.fingerprint:
        raise ValueError(
            f"The run was trained on data {before}, but the source now gives"
            f" {prepared.fingerprint}: the text has changed. Restore it, or"
            " choose another --workdir."
        )


def _require_same_start(trainee: trainee_lib.Trainee, step: int) -> None:
    if not strategy_lib.has_workers(trainee.strategy):
        return
    digest = hashlib.sha256()
    for variable in (*trainee.model.variables, *trainee.optimizer.variables):
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    workers.require_equal(
        trainee.strategy,
        {
            "stage": trainee.stage,
            "step": step,
            "weights": digest.hexdigest()[:16],
        },
        remedy="Give all the same --workdir and init_from, on storage that the"
        " hosts share.",
    )


def _state(
    trainee: trainee_lib.Trainee,
    step: int,
    validation: dict[str, float],
    best: loop.Best,
) -> dict[str, Any]:
    state = {
        "step": step,
        "seed": trainee.seed,
        "global_batch_size": trainee.train.global_batch_size,
        "precision": trainee.arithmetic.precision,
        "jit": trainee.arithmetic.jit,
        "fingerprint": trainee.prepared.fingerprint,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "best_by": best.by,
        "best": {"step": best.step, "value": best.value},
    }
    for name in ("loss", "accuracy"):
        if name in validation:
            state[f"validation_{name}"] = validation[name]
    return state


def _announce(trainee: trainee_lib.Trainee, first_step: int) -> None:
    train, plan, strategy = trainee.train, trainee.plan, trainee.strategy
    trainee.model.summary(print_fn=_log.info, line_length=80)
    replicas = strategy.num_replicas_in_sync
    micro = train.accumulation_steps
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
        train.global_batch_size,
        replicas,
        micro,
        train.global_batch_size // replicas // micro,
        f"{plan.num_steps:,}",
        f"{plan.steps_per_epoch:,}",
    )
    if plan.two_level_steps:
        _log.info(
            "softmax in two levels for the first %s steps, because of the large"
            " vocabulary (train.full_softmax_rate)",
            f"{plan.two_level_steps:,}",
        )
    wanted = trainee.schedule.warmup_steps
    warmup = optimizers.Schedule(trainee.schedule, plan.num_steps).warmup_steps
    if warmup < wanted:
        _log.info(
            "warm-up of %d steps, half of the run, instead of %d",
            warmup,
            wanted,
        )
    if first_step >= plan.num_steps:
        _log.info("all %d steps are done already", plan.num_steps)
    elif first_step:
        _log.info("resuming from step %d", first_step)


def _say_what_is_there(
    trainee: trainee_lib.Trainee,
    workdir: str,
    saved: int,
    hints: Sequence[str],
) -> None:
    """The last lines of a stage that is done or was asked to stop."""
    wanted = trainee.plan.num_steps
    _log.info(
        "saved:   step %d%s; %s holds checkpoints/%s, metrics.jsonl,"
        " tensorboard",
        saved,
        f" of {wanted}" if saved <= wanted else f", past the {wanted} wanted",
        workdir,
        trainee.stage,
    )
    _log.info("curves:  tensorboard --logdir %s", workdir)
    for hint in hints:
        _log.info("%s", hint)
