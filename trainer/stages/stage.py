"""One stage of a run: from its last checkpoint to its last step."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from configs import runtime
from input_pipeline import manifest
from trainer import checkpoint
from trainer.report import progress
from trainer.run import Run
from trainer.stages import tasks
from trainer.training import (
    loop,
    metrics,
    optimizers,
    profiling,
    signals,
    strategies,
    workers,
)

_log = logging.getLogger(__name__)
_GO_ON = "go on:   the same command again"


def train(
    task: tasks.Task,
    run: Run,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    hints: Sequence[str] = (),
    patience: int = 0,
) -> None:
    """Trains to the last step; afterwards the model has the final weights.

    Args:
      task: with the weights to begin with, where there is no checkpoint.
      run: that it belongs to.
      callbacks: Keras callbacks, driven as `fit` would.
      hints: lines for the end, for people.
      patience: epochs without a better validation that end it; 0 = none do.

    Raises:
      ValueError: bad checkpoints, a loss that is not finite, no memory left.
      runtime.Stopped: a signal came; the run has been saved before.
    """
    plan = dataclasses.replace(task.plan, patience=patience)
    task = dataclasses.replace(task, plan=plan)
    try:
        with signals.StopSignal() as stop:
            _train(task, run, stop, callbacks, hints)
    except (tf.errors.DataLossError, tf.errors.NotFoundError):
        manifest.open_prepared(task.prepared.directory)  # Names the file.
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
    task: tasks.Task,
    run: Run,
    stop: signals.StopSignal,
    callbacks: Sequence[keras.callbacks.Callback],
    hints: Sequence[str],
) -> None:
    workdir, chief = run.workdir, run.is_chief
    plan, model, optimizer = task.plan, task.model, task.optimizer
    checkpoints = checkpoint.of_stage(
        workdir,
        task.stage,
        keep_last=task.config.checkpoint.keep_last,
    )
    state = checkpoints.restore(
        weights=model.variables, optimizer=optimizer.variables
    )
    first_step = saved = int(state.get("step", 0))
    best = loop.Best(task.best_by, **state.get("best", {}))
    # A signal saves at once.
    validation_due = (
        first_step > 0
        and plan.evaluates(first_step)
        and "validation_loss" not in state
        and task.prepared.roles["validation"].num_rows > 0
    )
    _require_same_start(task, first_step)
    _announce(task, first_step)
    averages = optimizers.Averages(optimizer, task.variables)
    evaluate = task.create_evaluate()

    def evaluate_averages() -> dict[str, float]:
        with averages.used():
            return evaluate()

    def save(step: int, validation: dict[str, float]) -> None:
        nonlocal saved
        with averages.used():
            if chief:
                checkpoints.save(
                    _state(task, step, validation, best),
                    weights=model.variables,
                    optimizer=optimizer.variables,
                )
        saved = step

    try:
        if validation_due or not plan.finishes(first_step, best.step):
            if first_step:
                averages.swap()  # The checkpoint holds them as its weights.
            with metrics.MetricsLog(
                workdir,
                stage=task.stage,
                first_step=first_step,
                enabled=chief,
            ) as metrics_log:
                loop.Loop(
                    plan=plan,
                    train_call=task.create_train_call(stop.flag),
                    evaluate=evaluate_averages,
                    save=save,
                    learning_rate=task.learning_rate,
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
                        metrics.board_directory(workdir, task.stage),
                        plan.profiled if chief else (0, 0),
                    ),
                    best=best,
                ).run(
                    iter(task.batches(first_step)),
                    first_step=first_step,
                    validation_due=validation_due,
                )
            averages.swap()
    except runtime.Stopped:
        _say_what_is_there(task, workdir, saved, [_GO_ON])
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
    _say_what_is_there(task, workdir, saved, hints)


def _require_same_start(task: tasks.Task, step: int) -> None:
    if not strategies.has_workers(task.strategy):
        return
    digest = hashlib.sha256()
    for variable in (*task.model.variables, *task.optimizer.variables):
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    workers.require_equal(
        task.strategy,
        {
            "stage": task.stage,
            "step": step,
            "weights": digest.hexdigest()[:16],
        },
        remedy="Give all the same --workdir and init_from, on storage that the"
        " hosts share.",
    )


def _state(
    task: tasks.Task,
    step: int,
    validation: dict[str, float],
    best: loop.Best,
) -> dict[str, Any]:
    state = {
        "step": step,
        "seed": task.seed,
        "global_batch_size": task.train.global_batch_size,
        "precision": task.arithmetic.precision,
        "jit": task.arithmetic.jit,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "best_by": best.by,
        "best": {"step": best.step, "value": best.value},
        **task.artifact.at(step).to_dict(),
    }
    for name in ("loss", "accuracy"):
        if name in validation:
            state[f"validation_{name}"] = validation[name]
    return state


def _announce(task: tasks.Task, first_step: int) -> None:
    train, plan, strategy = task.train, task.plan, task.strategy
    task.model.summary(print_fn=_log.info, line_length=80)
    replicas = strategy.num_replicas_in_sync
    micro = train.accumulation_steps
    _log.info("%s", strategies.describe(strategy))
    _log.info(
        "precision %s, XLA %s, %s parameters",
        task.arithmetic.precision,
        "on" if task.arithmetic.jit else "off",
        f"{task.model.count_params():,}",
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
    wanted = task.schedule.warmup_steps
    warmup = optimizers.Schedule(task.schedule, plan.num_steps).warmup_steps
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
    task: tasks.Task,
    workdir: str,
    saved: int,
    hints: Sequence[str],
) -> None:
    """The last lines of a stage that is done or was asked to stop."""
    wanted = task.plan.num_steps
    _log.info(
        "saved:   step %d%s; %s holds checkpoints/%s, metrics.jsonl,"
        " tensorboard",
        saved,
        f" of {wanted}" if saved <= wanted else f", past the {wanted} wanted",
        workdir,
        task.stage,
    )
    _log.info("curves:  tensorboard --logdir %s", workdir)
    for hint in hints:
        _log.info("%s", hint)
