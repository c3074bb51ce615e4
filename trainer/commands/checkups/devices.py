"""Devices: which ones the run gets, and whether they compute correctly."""

import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.commands.doctor import Case, CheckWarning, explain
from trainer.stages import finetuning_task
from trainer.training import strategies

# Between probabilities: XLA may reorder sums, and bfloat16 has 8 bits.
_GAP = 2e-2


def devices(case: Case) -> str:
    """Creates the strategy; looks for a GPU that TensorFlow does not see."""
    text = strategies.describe(case.run.strategy)
    has_gpu = any(pathlib.Path("/dev").glob("nvidia[0-9]*"))
    if has_gpu and not tf.config.list_physical_devices("GPU"):
        raise CheckWarning(
            f"{text}; but this machine has a GPU: install with EXTRA=gpu, and"
            " see whether CUDA_VISIBLE_DEVICES hides it."
        )
    return text


def batch(case: Case) -> str:
    """Whether the global batches can be divided among the replicas."""
    strategies.check_batch(case.run.strategy, case.config.train)
    if case.config.data.source != "text":  # It has no labels.
        section = finetuning_task.training_section(case.config)
        strategies.check_batch(case.run.strategy, section, section="finetune")
    return "the replicas share every batch evenly"


def xla(case: Case) -> str:
    """Whether each device computes the same with XLA."""
    if strategies.is_tpu(case.run.strategy):
        return "a TPU compiles every step anyway"
    compiled = tf.function(_attend, jit_compile=True, autograph=False)
    used = case.run.arithmetic.jit
    return _compare(case, compiled, used=used, remedy="set train.jit=off")


def bfloat16(case: Case) -> str:
    """Whether products in bfloat16 are close to those in float32."""
    return _compare(
        case,
        lambda matrix: _attend(tf.cast(matrix, tf.bfloat16)),
        used=case.run.arithmetic.precision == "bfloat16",
        remedy="set train.precision=float32",
    )


def all_reduce(case: Case) -> str:
    """Whether a sum over all replicas is correct."""
    strategy = case.run.strategy
    replicas = strategy.num_replicas_in_sync

    def add() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        number = tf.cast(context.replica_id_in_sync_group, tf.float32) + 1
        return context.all_reduce(
            tf.distribute.ReduceOp.SUM, number * tf.ones([1000])
        )

    total = tf.function(lambda: strategy.run(add), autograph=False)()
    found = np.unique(strategy.experimental_local_results(total)).tolist()
    expected = replicas * (replicas + 1) / 2
    text = f"the sum of 1 to {replicas} over the replicas is"
    if found != [expected]:
        raise ValueError(
            f"{text} {found}, not {expected:g}; try --strategy=one_device, and"
            " with GPUs NCCL_P2P_DISABLE=1."
        )
    return f"{text} {expected:g} on each"


def _attend(matrix: tf.Tensor) -> tf.Tensor:
    """A product and a softmax, as attention computes them."""
    return tf.nn.softmax(tf.matmul(matrix, matrix, transpose_b=True) / 8)


def _compare(
    case: Case,
    compute: Callable[[tf.Tensor], tf.Tensor],
    *,
    used: bool,
    remedy: str,
) -> str:
    """Compares `compute` with plain float32 on each device.

    A fault is only a warning where the config does not use what is compared.
    """
    values = np.random.default_rng(0).standard_normal([64, 64], np.float32)
    with tf.device("CPU:0"):
        expected = _attend(tf.constant(values)).numpy()
    for device in case.run.strategy.extended.worker_devices:
        try:
            with tf.device(device):
                found = compute(tf.constant(values)).numpy()
            gap = np.abs(found.astype(np.float32) - expected).max()
            fault = "" if gap <= _GAP else f"the result is off by {gap:.2g}"
        except Exception as error:  # Compilers and kernels fail in many ways.
            fault = explain(error)
        if fault and used:
            raise ValueError(f"{device}: {fault}; {remedy}.")
        if fault:
            raise CheckWarning(
                f"{device}: {fault}. This config does not use it."
            )
    return f"right on each device; used by this config: {used}"
