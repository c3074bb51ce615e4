"""A small model with the layers of the config: it learns in any layout."""

import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import manifest, processes
from trainer.commands.checkups import files
from trainer.commands.doctor import Case
from trainer.stages import pretraining_task, tasks
from trainer.training import strategies

_FIRST_GAP = 0.3  # Nats that the first loss may differ from ln V.
_STEPS, _LEARNED = 150, 0.1  # Share of the first loss that may be left.
_LAYOUT_STEPS, _LAYOUT_GAP = 3, 1e-5


def initial_loss(case: Case) -> str:
    """Whether a model that knows nothing guesses evenly: a loss of ln V."""
    size, loss, _ = _learn_one_batch(case)
    text = (
        f"{loss:.3f} nats at step 0, where guessing among {size} words makes"
        f" {math.log(size):.3f}"
    )
    if not abs(loss - math.log(size)) < _FIRST_GAP:
        raise ValueError(f"{text}; look at model.initializer_range.")
    return text


def one_batch(case: Case) -> str:
    """Whether a model learns one batch by heart."""
    _, first, last = _learn_one_batch(case)
    text = f"one batch, {_STEPS} times: from {first:.3f} to {last:.3f} nats"
    if not last < _LEARNED * first:
        raise ValueError(
            f"{text}, where under {_LEARNED * first:.3f} is expected; look at"
            " train.precision, train.jit and the section `model`."
        )
    return text


def layout(case: Case) -> str:
    """Whether two virtual devices compute what one does.

    Each in another process, because in this one the devices are fixed already.
    """
    config, prepared = files.sample(case)
    measure = functools.partial(_measure, config, str(prepared.directory))
    with processes.pool(__name__, 2, 2) as run:
        one, two = run(measure, ("one_device", "mirrored"))
    gap = np.abs(np.divide(two, one) - 1).max()
    if not gap < _LAYOUT_GAP:
        raise ValueError(
            f"two virtual devices lose {two}, one {one}: the layout changes the"
            " result. Compare the packages with the locked ones, and"
            " --mode=inspect with --num_virtual_devices=2 and without."
        )
    return f"losses on 1 and 2 virtual CPU devices are alike to {gap:.0e}"


def _measure(config: schema.Config, rows: str, layout: str) -> list[float]:
    """The first losses on one or two devices, with the rows of that folder."""
    # First of all: the vocabulary of the rows touches a device.
    strategy = strategies.create(layout, num_virtual_devices=2)
    prepared = manifest.open_prepared(rows)
    arithmetic = strategies.Arithmetic("float32", jit=False)
    task = pretraining_task.create(config, strategy, prepared, arithmetic)
    return _losses(task, task.batches(0), [1] * _LAYOUT_STEPS)


@functools.cache
def _learn_one_batch(case: Case) -> tuple[int, float, float]:
    """The size of the vocabulary, and the first and the last loss in nats.

    They are computed with the precision and the XLA of the run.
    """
    run = case.run
    replicas = run.strategy.num_replicas_in_sync
    # About 8 rows, as many for each replica.
    config, prepared = files.sample(case, num_rows=-(-8 // replicas) * replicas)
    config = config.changed(
        {"model.dropout": 0.0, "model.attention_dropout": 0.0}
    )
    task = pretraining_task.create(
        config, run.strategy, prepared, run.arithmetic
    )
    first, *_, last = _losses(task, task.first_batches(1), [1, _STEPS - 2, 1])
    return prepared.tokenizer.vocabulary_size, first, last


def _losses(task: tasks.Task, batches: Any, numbers: list[int]) -> list[float]:
    """The mean loss of so many steps, then of so many more, and so on."""
    call = task.create_train_call(tf.Variable(0.0))
    iterator, step, losses = iter(batches), 0, []
    for number in numbers:
        _, _, sums = call(
            iterator, tf.constant(step, tf.int64), tf.constant(number)
        )
        losses.append(float(sums["loss"] / sums["weight"]))
        step += number
    return losses
