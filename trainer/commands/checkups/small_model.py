"""A small model with the layers of the config: does it learn, and alike?"""

import dataclasses
import functools
import itertools
import math
import multiprocessing
from concurrent.futures import process
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import manifest, pretraining, processes
from trainer.commands import inspect
from trainer.commands.checkups import rows
from trainer.commands.checkups.check import Case
from trainer.stages import pretraining_task, tasks
from trainer.training import strategies

_ROWS = 8  # A step, or one for each replica.
# Nats that the first loss may be away from ln V.
_FIRST_GAP = 0.3
_STEPS, _LEARNED = 150, 0.1  # Share of the first loss that may be left.
_LAYOUTS = ("one_device", "mirrored")
_LAYOUT_STEPS, _LAYOUT_GAP = 3, 1e-5


class Course(NamedTuple):
    """How the losses of one batch went."""

    vocabulary_size: int
    first: float
    last: float


class Steps(NamedTuple):
    """The first steps of a run, under one layout."""

    digests: list[str]
    losses: list[float]


def initial_loss(case: Case) -> str:
    """Whether a model that knows nothing guesses evenly: ln V."""
    case.require(case.strategy, "devices")
    course = _learn_one_batch(case)
    expected = math.log(course.vocabulary_size)
    text = (
        f"{course.first:.3f} nats at step 0, where guessing among"
        f" {course.vocabulary_size} words makes {expected:.3f}"
    )
    if not abs(course.first - expected) < _FIRST_GAP:
        raise ValueError(
            f"{text}; look at model.initializer_range, and at xla and bfloat16"
            " above."
        )
    return text


def one_batch(case: Case) -> str:
    """Whether a model learns one batch by heart."""
    case.require(case.strategy, "devices")
    course = _learn_one_batch(case)
    text = (
        f"one batch, {_STEPS} times: from {course.first:.3f} to"
        f" {course.last:.3f} nats"
    )
    if not course.last < _LEARNED * course.first:
        raise ValueError(
            f"{text}, where under {_LEARNED * course.first:.3f} is expected;"
            " look at train.precision, train.jit and the section `model`."
        )
    return text


def layout(case: Case) -> str:
    """Whether two virtual devices compute what one does."""
    config, prepared = _small(case, rows_per_step=_ROWS)
    one, two = measured_layouts(config, str(prepared.directory))
    if one.digests != two.digests:
        raise ValueError(
            "two virtual devices are given other batches than one; run"
            " --mode=inspect with --num_virtual_devices=2 and without."
        )
    gap = np.abs(np.divide(two.losses, one.losses) - 1).max()
    if not gap < _LAYOUT_GAP:
        raise ValueError(
            f"two virtual devices lose {two.losses}, one {one.losses}: the"
            " layout changes the result; compare with the locked packages."
        )
    return (
        f"the same batches on 1 and 2 virtual CPU devices, losses alike to"
        f" {gap:.0e}"
    )


def measured_layouts(config: schema.Config, directory: str) -> list[Steps]:
    """The first steps on one and on two devices, from another process.

    In this one the devices are fixed already.
    """
    with process.ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=processes.start_worker,
        initargs=(__name__,),
    ) as executor:
        return executor.submit(_measure, config, directory).result()


def _measure(config: schema.Config, directory: str) -> list[Steps]:
    # Before the rows are opened: their vocabulary touches a device.
    strategies = [
        strategies.create(name, num_virtual_devices=len(_LAYOUTS))
        for name in _LAYOUTS
    ]
    prepared = manifest.open_prepared(directory)
    return [first_steps(config, each, prepared) for each in strategies]


def first_steps(
    config: schema.Config,
    strategy: tf.distribute.Strategy,
    prepared: manifest.Prepared,
) -> Steps:
    """Digests and losses of the first steps, in float32 without XLA."""
    batches = inspect.global_batches(config, strategy, prepared, first_step=0)
    shown = itertools.islice(batches, _LAYOUT_STEPS)
    task = pretraining_task.create(
        config, strategy, prepared, strategies.Arithmetic("float32", False)
    )
    losses = _losses(task, task.batches(0), [1] * _LAYOUT_STEPS)
    return Steps([pretraining.digest(batch) for batch in shown], losses)


@functools.cache
def _learn_one_batch(case: Case) -> Course:
    """The losses of one batch, computed as the run will do it."""
    strategy = case.strategy
    replicas = strategy.num_replicas_in_sync
    config, prepared = _small(
        case, rows_per_step=-(-_ROWS // replicas) * replicas
    )
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model, dropout=0.0, attention_dropout=0.0
        ),
    )
    task = pretraining_task.create(
        config, strategy, prepared, strategies.resolve(strategy, config.train)
    )
    first, *_, last = _losses(task, task.first_batches(1), [1, _STEPS - 2, 1])
    return Course(prepared.tokenizer.vocabulary_size, first, last)


def _losses(task: tasks.Task, batches: Any, numbers: list[int]) -> list[float]:
    """The mean loss of so many steps, and so many after them, and so on."""
    call = task.create_train_call(tf.Variable(0.0))
    iterator, step, losses = iter(batches), 0, []
    for number in numbers:
        _, _, sums = call(
            iterator, tf.constant(step, tf.int64), tf.constant(number)
        )
        losses.append(float(sums["loss"] / sums["weight"]))
        step += number
    return losses


def _small(
    case: Case, *, rows_per_step: int
) -> tuple[schema.Config, manifest.Prepared]:
    """The config with its layers made small, and sample rows for it."""
    config, prepared = rows.sample(case)
    small = dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model,
            num_layers=min(2, config.model.num_layers),
            hidden_size=32,
            num_heads=2,
            intermediate_size=64,
        ),
        optimizer=dataclasses.replace(
            config.optimizer,
            learning_rate=0.01,
            schedule="constant",
            warmup_steps=0,
        ),
        train=dataclasses.replace(
            config.train, global_batch_size=rows_per_step, accumulation_steps=1
        ),
    )
    return small, prepared


CHECKS = (initial_loss, one_batch, layout)
