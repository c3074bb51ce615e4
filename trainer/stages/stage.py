"""One stage of a run: from its last checkpoint to its last step."""

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


def train(
    task: tasks.Task,
    run: Run,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    hint: str = "",
) -> None:
    """Trains to the last step; afterwards the model has the final weights.

    Args:
      task: with the weights to begin with, where there is no checkpoint.
      run: that it belongs to.
      callbacks: Keras callbacks, driven as `fit` would.
      hint: a line for people, once all steps are done.

    Raises:
      ValueError: bad checkpoints, a loss that is not finite, no memory left.
      runtime.Stopped: a signal came; the run has been saved before.
    """
    try:
        with signals.StopSignal() as stop:
            _train(task, run, stop, callbacks, hint)
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
    hint: str,
) -> None:
    plan, model, optimizer = task.plan, task.model, task.optimizer
    checkpoints = checkpoint.of_stage(
        run.workdir, task.stage, keep_last=task.config.checkpoint.keep_last
    )
    variables = {"weights": model.variables, "optimizer": optimizer.variables}
    state = checkpoints.restore(**variables)
    first_step = saved = state.get("step", 0)
    best = loop.Best(task.best_by, **state.get("best", {}))
    # A signal in the last step before a validation saves without it.
    validation_due = (
        first_step > 0
        and plan.evaluates(first_step)
        and "validation_loss" not in state
        and task.prepared.roles["validation"].num_rows > 0
    )
    _require_same_start(task, first_step)
    _announce(task, first_step)
    model.optimizer = optimizer  # Keras callbacks look for it there.
    averages = optimizers.Averages(optimizer, task.variables)

    @averages.used()
    def save(step: int, validation: dict[str, float]) -> None:
        nonlocal saved
        if run.is_chief:
            checkpoints.save(_state(task, step, validation, best), **variables)
        saved = step

    if validation_due or not plan.finishes(first_step, best.step):
        if first_step:
            averages.swap()  # The checkpoint holds them as its weights.
        bar = [progress.Progress(plan.num_steps)] if run.is_chief else []
        callback_list = keras.callbacks.CallbackList(
            [*bar, *callbacks],
            model=model,
            epochs=-(-plan.num_steps // plan.steps_per_epoch),
            steps=plan.steps_per_epoch,
            verbose=0,
        )
        trace = profiling.Trace(
            metrics.board_directory(run.workdir, task.stage),
            plan.profiled if run.is_chief else (0, 0),
        )
        with metrics.MetricsLog(
            run.workdir,
            stage=task.stage,
            first_step=first_step,
            enabled=run.is_chief,
        ) as metrics_log:
            try:
                loop.Loop(
                    plan=plan,
                    train_call=task.create_train_call(stop.flag),
                    evaluate=averages.used()(task.create_evaluate()),
                    save=save,
                    learning_rate=task.learning_rate,
                    metrics=metrics_log,
                    callbacks=callback_list,
                    stop=stop,
                    trace=trace,
                    best=best,
                ).run(
                    iter(task.batches(first_step)),
                    first_step=first_step,
                    validation_due=validation_due,
                )
            except runtime.Stopped:
                _say_what_is_there(task, run.workdir, saved, best, hint)
                raise
        averages.swap()
    _say_what_is_there(task, run.workdir, saved, best, hint)


def _require_same_start(task: tasks.Task, step: int) -> None:
    """Refuses workers that would begin with other weights, or elsewhere."""
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
    task: tasks.Task, step: int, validation: dict[str, float], best: loop.Best
) -> dict[str, Any]:
    """What a checkpoint says besides its arrays."""
    return {
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
        **{
            f"validation_{name}": validation[name]
            for name in ("loss", "accuracy")
            if name in validation
        },
    }


def _announce(task: tasks.Task, first_step: int) -> None:
    train, plan = task.train, task.plan
    replicas = task.strategy.num_replicas_in_sync
    micro = train.accumulation_steps
    rows = train.global_batch_size // replicas // micro
    lines = [
        strategies.describe(task.strategy),
        f"precision {task.arithmetic.precision}, XLA"
        f" {'on' if task.arithmetic.jit else 'off'},"
        f" {task.model.count_params():,} parameters",
        f"batch {train.global_batch_size} rows = {replicas} replica(s) x"
        f" {micro} micro-batch(es) x {rows}; {plan.num_steps:,} steps in epochs"
        f" of {plan.steps_per_epoch:,}",
    ]
    if plan.two_level_steps:
        lines.append(
            f"softmax in two levels for the first {plan.two_level_steps:,}"
            " steps, because of the large vocabulary (train.full_softmax_rate)"
        )
    wanted = task.schedule.warmup_steps
    warmup = optimizers.Schedule(task.schedule, plan.num_steps).warmup_steps
    if warmup < wanted:
        lines.append(
            f"warm-up of {warmup} steps, half of the run, instead of {wanted}"
        )
    if first_step >= plan.num_steps:
        lines.append(f"all {plan.num_steps} steps are done already")
    elif first_step:
        lines.append(f"resuming from step {first_step}")
    task.model.summary(print_fn=_log.info, line_length=80)
    for line in lines:
        _log.info("%s", line)


def _say_what_is_there(
    task: tasks.Task, workdir: str, saved: int, best: loop.Best, hint: str
) -> None:
    """The last lines of a stage that is done or was asked to stop."""
    plan = task.plan
    is_done, past = plan.finishes(saved, best.step), saved > plan.num_steps
    lines = [
        f"saved:   step {saved}{', past the' if past else ' of'}"
        f" {plan.num_steps}{' wanted' if past else ''}; {workdir} holds"
        f" checkpoints/{task.stage}, metrics.jsonl, tensorboard",
        f"curves:  tensorboard --logdir {workdir}",
        hint if is_done else "go on:   the same command again",
    ]
    if is_done and saved < plan.num_steps:
        lines.insert(
            0,
            f"early:   validation {best.by} has not been better than"
            f" {best.value:.4f} since step {best.step}"
            f" (finetune.patience={plan.patience})",
        )
    for line in filter(None, lines):
        _log.info("%s", line)
