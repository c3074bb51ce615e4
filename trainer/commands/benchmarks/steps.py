"""Training steps to be timed: ours, and those of the dense reference."""

import dataclasses
import itertools
from typing import Any

import tensorflow as tf

from configs import schema
from configs.runtime import Runtime
from input_pipeline import manifest, pretraining
from trainer import modeling
from trainer.commands.benchmarks import reference
from trainer.run import Run
from trainer.stages import pretraining_task, tasks
from trainer.training import strategies

NUM_BATCHES = 8  # Different ones; they are kept in memory and repeated.


class Steps:
    """A call takes `train.steps_per_call` steps and waits for the last."""

    def __init__(self, task: tasks.Task, *, kept: bool) -> None:
        """Batches are kept in memory, or come from the input as in training."""
        self._call: Any = task.create_train_call(tf.Variable(0.0))
        self._arguments = (
            iter(
                task.first_batches(NUM_BATCHES)
                if kept
                else task.batches(first_step=0)
            ),
            tf.constant(0, tf.int64),
            tf.constant(task.train.steps_per_call),
        )

    def trace(self) -> Any:
        """The concrete function; nothing is computed."""
        return self._call.get_concrete_function(*self._arguments)

    def __call__(self) -> None:
        """Computes."""
        done, *_ = self._call(*self._arguments)
        done.numpy()


class ReferenceStep:
    """A call takes one step of the dense reference and waits for it."""

    def __init__(self, config: schema.Config, prepared: manifest.Prepared):
        """From the weights that a run of `config` begins with."""
        model = modeling.create_masked_lm(
            config.model,
            vocabulary_size=prepared.tokenizer.vocabulary_size,
            sequence_length=prepared.sequence_length,
            seed=config.seed,
            dtype="float32",
        )
        self._step: Any = reference.create_step(
            model, config.optimizer.learning_rate
        )
        self._batches = itertools.cycle(first_batches(config, prepared))
        self._zero = tf.constant(0, tf.int64)

    def trace(self) -> Any:
        """The concrete function; nothing is computed."""
        return self._step.get_concrete_function(next(self._batches), self._zero)

    def __call__(self) -> None:
        """Computes."""
        self._step(next(self._batches), self._zero).numpy()


def create_steps(config: schema.Config, runtime: Runtime) -> Steps:
    """Steps on batches from memory."""
    return Steps(create_task(config, runtime), kept=True)


def create_reference(config: schema.Config, runtime: Runtime) -> ReferenceStep:
    """The reference on its first device; raises ValueError for several."""
    strategy = Run(config, workdir="", runtime=runtime).strategy
    if strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "benchmark.reference=True computes on one device, but"
            f" --strategy={runtime.strategy} has"
            f" {strategy.num_replicas_in_sync} replicas; use"
            " --strategy=one_device."
        )
    config = with_documents(config)
    return ReferenceStep(config, Run(config, workdir="", runtime=runtime).rows)


def create_task(
    config: schema.Config, runtime: Runtime
) -> pretraining_task.PretrainingTask:
    """What `--mode=pretrain` would train, from its first weights."""
    strategy = Run(config, workdir="", runtime=runtime).strategy
    strategies.check_batch(strategy, config.train)
    prepared = Run(config, workdir="", runtime=runtime).rows
    return pretraining_task.create(
        config, strategy, prepared, resolve(config, runtime)
    )


def resolve(config: schema.Config, runtime: Runtime) -> strategies.Arithmetic:
    """Precision and XLA of a run that begins now."""
    strategy = Run(config, workdir="", runtime=runtime).strategy
    return strategies.resolve(strategy, config.train)


def with_documents(config: schema.Config) -> schema.Config:
    """With one document a row, cut at L, as the Keras example has them."""
    data = dataclasses.replace(config.data, packing="document")
    return dataclasses.replace(config, data=data)


def first_batches(
    config: schema.Config, prepared: manifest.Prepared
) -> list[reference.Batch]:
    """The global batches that are repeated."""
    batches = pretraining.training_batches(prepared, config)
    return list(batches.take(NUM_BATCHES))
