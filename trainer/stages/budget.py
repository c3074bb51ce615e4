"""`train.minutes`: how many steps pretraining and fine-tuning may take."""

import dataclasses
import logging
import time
from collections.abc import Callable

import tensorflow as tf

from configs import automatic, schema
from trainer.run import Run
from trainer.stages import tasks
from trainer.training import workers

_log = logging.getLogger(__name__)
# Of the minutes. Without pretraining, fine-tuning has all of them.
_PRETRAINING_SHARE = 0.6
_NUM_BATCHES, _TIMED_STEPS = 4, 8


def decided(run: Run) -> schema.Config:
    """The config with the numbers of steps on which the run has decided."""
    if not run.config.train.minutes:
        return run.config
    return _with(run.config, run.resolved.get("steps", {}))


def decide(
    run: Run,
    stage: str,
    create: Callable[[schema.Config], tasks.Task],
    *,
    share: float = 1.0,
) -> schema.Config:
    """The config with as many steps for a stage as `train.minutes` allows.

    A few steps are timed with weights that are thrown away. The number is
    recorded, so that a resumed run has the same one.

    Args:
      run: with its config recorded. If its `train.minutes` is 0, its config is
        returned as it is.
      stage: "pretrain" or "finetune".
      create: makes what the stage trains.
      share: of the stage's minutes.
    """
    config = run.config
    if not config.train.minutes:
        return config
    steps = run.resolved.get("steps", {})
    if stage not in steps:
        if stage == "pretrain":
            share *= _PRETRAINING_SHARE
        elif "pretrain" in steps:
            share *= 1 - _PRETRAINING_SHARE
        task = create(config)
        seconds = _seconds_per_step(task)
        number = max(1, round(60 * config.train.minutes * share / seconds))
        # In more epochs a small text would only be learned by heart.
        epochs = automatic.MOST_EPOCHS[stage]
        number = min(number, epochs * task.plan.steps_per_epoch)
        steps = {**steps, stage: number}
        run.record(steps=steps)
        _log.info(
            "%s: %s steps of %.3f s are %.1f of train.minutes=%g",
            stage,
            f"{number:,}",
            seconds,
            number * seconds / 60,
            config.train.minutes,
        )
    return _with(config, steps)


def _with(config: schema.Config, steps: dict[str, int]) -> schema.Config:
    train, finetune = config.train, config.finetune
    number = steps.get("pretrain", train.num_steps)
    train = dataclasses.replace(train, minutes=0.0, num_steps=number)
    number = steps.get("finetune", finetune.num_steps)
    finetune = dataclasses.replace(finetune, num_steps=number)
    return dataclasses.replace(config, train=train, finetune=finetune)


def _seconds_per_step(task: tasks.Task) -> float:
    """How long a step takes the slowest worker; the same on all workers."""
    call = task.create_train_call(tf.Variable(0.0))
    batches = iter(task.first_batches(_NUM_BATCHES))

    def run(number: int) -> float:
        start = time.perf_counter()
        done, *_ = call(batches, tf.constant(0, tf.int64), tf.constant(number))
        done.numpy()
        return time.perf_counter() - start

    run(_NUM_BATCHES)  # Compiles.
    seconds = workers.slowest(task.strategy, run(_TIMED_STEPS))
    return seconds / _TIMED_STEPS
