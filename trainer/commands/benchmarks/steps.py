"""Training steps to be timed: ours, and those of the dense reference."""

from typing import Any

import tensorflow as tf

from configs import schema
from configs.runtime import Runtime
from input_pipeline import pretraining
from trainer import modeling
from trainer.commands.benchmarks import reference
from trainer.run import Run
from trainer.stages import pretraining_task, tasks
from trainer.training import strategies

NUM_BATCHES = 8  # Different ones; they are kept in memory and repeated.


class Timed:
    """A call of a `tf.function`, which waits for the first of its results."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def trace(self) -> Any:
        """The concrete function; nothing is computed."""
        return self.function.get_concrete_function(*self.arguments)

    def __call__(self) -> None:
        """Computes."""
        tf.nest.flatten(self.function(*self.arguments))[0].numpy()


def of_task(task: tasks.Task, *, kept: bool) -> Timed:
    """`train.steps_per_call` steps of training.

    Args:
      task: what is trained.
      kept: whether batches are kept in memory, or come from the input as in
        training.
    """
    batches = task.first_batches(NUM_BATCHES) if kept else task.batches(0)
    return Timed(
        task.create_train_call(tf.Variable(0.0)),
        iter(batches),
        tf.constant(0, tf.int64),
        tf.constant(task.train.steps_per_call),
    )


def create_task(run: Run) -> pretraining_task.PretrainingTask:
    """What `--mode=pretrain` would train, from its first weights."""
    strategies.check_batch(run.strategy, run.config.train)
    arithmetic = strategies.resolve(run.strategy, run.config.train)
    return pretraining_task.create(
        run.config, run.strategy, run.rows, arithmetic
    )


def create_steps(config: schema.Config, runtime: Runtime) -> Timed:
    """Steps on batches from memory."""
    run = Run(config, workdir="", runtime=runtime)
    return of_task(create_task(run), kept=True)


def create_reference(config: schema.Config, runtime: Runtime) -> Timed:
    """A step of the dense reference, from the weights that a run begins with.

    Its rows hold one document each, cut at L, as the Keras example has them.

    Raises:
      ValueError: there are several devices; it computes on one.
    """
    config = config.changed({"data.packing": "document"})
    run = Run(config, workdir="", runtime=runtime)
    if run.strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "benchmark.reference=True computes on one device, but"
            f" --strategy={runtime.strategy} has"
            f" {run.strategy.num_replicas_in_sync} replicas; use"
            " --strategy=one_device."
        )
    model = modeling.create_masked_lm(
        config.model,
        vocabulary_size=run.rows.tokenizer.vocabulary_size,
        sequence_length=run.rows.sequence_length,
        seed=config.seed,
        dtype="float32",
    )
    return Timed(
        reference.create_step(model, config.optimizer.learning_rate),
        iter(first_batches(run).cache().repeat()),
        tf.constant(0, tf.int64),
    )


def first_batches(run: Run) -> tf.data.Dataset:
    """The global batches that are repeated."""
    return pretraining.training_batches(run.rows, run.config).take(NUM_BATCHES)
