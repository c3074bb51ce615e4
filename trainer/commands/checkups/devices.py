"""Devices: who gets them, and whether they compute what they should."""

import collections
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.commands.checkups.check import Case, Imperfect, explain
from trainer.stages import finetuning_task
from trainer.training import strategies

# Between probabilities: XLA may order sums anew, bfloat16 has 8 bits.
_XLA_GAP = 1e-2
_BFLOAT16_GAP = 2e-2


def devices(case: Case) -> str:
    """Makes the strategy; whether there is a GPU that it does not get."""
    layout = case.runtime
    case.strategy = strategies.create(
        layout.strategy, num_virtual_devices=layout.num_virtual_devices
    )
    listed = tf.config.list_physical_devices()
    kinds = collections.Counter(device.device_type for device in listed)
    seen = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    text = f"TensorFlow sees {seen}; {strategies.describe(case.strategy)}"
    if not kinds["GPU"] and any(pathlib.Path("/dev").glob("nvidia[0-9]*")):
        raise Imperfect(
            f"{text}; but this machine has a GPU: install with EXTRA=gpu, and"
            " see whether CUDA_VISIBLE_DEVICES hides it."
        )
    return text


def batch(case: Case) -> str:
    """Whether the global batches can be divided among the replicas."""
    case.require(case.strategy, "devices")
    config = case.config
    sections = {"train": config.train}
    if config.data.source != "text":  # Which has no labels.
        sections["finetune"] = finetuning_task.training_section(config)
    for name, section in sections.items():
        strategies.check_batch(case.strategy, section, section=name)
    return ", ".join(
        f"{name}: {section.global_batch_size} rows a step"
        for name, section in sections.items()
    )


def xla(case: Case) -> str:
    """Whether what XLA compiles gives the same, on each device."""
    case.require(case.strategy, "devices")
    if strategies.is_tpu(case.strategy):
        return "a TPU compiles every step anyway"
    used = strategies.resolve(case.strategy, case.config.train).jit
    compiled = tf.function(_compute, jit_compile=True, autograph=False)
    _on_each_device(
        case,
        lambda: compiled(_matrix()),
        tolerance=_XLA_GAP,
        used=used,
        remedy="set train.jit=off",
    )
    verb = "uses" if used else "does not use"
    return f"right on each device; this config {verb} it"


def bfloat16(case: Case) -> str:
    """Whether products in bfloat16 are close to those in float32."""
    case.require(case.strategy, "devices")
    resolved = strategies.resolve(case.strategy, case.config.train)
    used = resolved.precision == "bfloat16"
    _on_each_device(
        case,
        lambda: tf.cast(_compute(tf.cast(_matrix(), tf.bfloat16)), tf.float32),
        tolerance=_BFLOAT16_GAP,
        used=used,
        remedy="set train.precision=float32",
    )
    return f"right on each device; this config computes in {resolved.precision}"


def all_reduce(case: Case) -> str:
    """Whether a sum over all replicas is the sum."""
    case.require(case.strategy, "devices")
    strategy = case.strategy
    replicas = strategy.num_replicas_in_sync

    def add() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        number = tf.cast(context.replica_id_in_sync_group, tf.float32) + 1
        return context.all_reduce(
            tf.distribute.ReduceOp.SUM, number * tf.ones([1000])
        )

    total = tf.function(lambda: strategy.run(add), autograph=False)()
    expected = replicas * (replicas + 1) / 2
    for values in strategy.experimental_local_results(total):
        found = np.unique(values)
        if found.tolist() != [expected]:
            raise ValueError(
                f"the sum of 1 to {replicas} over the replicas is"
                f" {found.tolist()}, not {expected:g}; try"
                " --strategy=one_device, and with GPUs NCCL_P2P_DISABLE=1."
            )
    return f"the sum of 1 to {replicas} is {expected:g} on each replica"


def _matrix() -> tf.Tensor:
    random = np.random.default_rng(0)
    return tf.constant(random.standard_normal([64, 64]), tf.float32)


def _compute(values: tf.Tensor) -> tf.Tensor:
    """As attention does: a product, then probabilities."""
    return tf.nn.softmax(tf.matmul(values, values, transpose_b=True) / 8)


def _on_each_device(
    case: Case,
    compute: Callable[[], tf.Tensor],
    *,
    tolerance: float,
    used: bool,
    remedy: str,
) -> None:
    """Compares with plain float32; Imperfect where the run does not use it."""
    with tf.device("CPU:0"):
        expected = _compute(_matrix()).numpy()
    for device in case.strategy.extended.worker_devices:
        try:
            with tf.device(device):
                gap = np.abs(compute().numpy() - expected).max()
            if gap <= tolerance:
                continue
            fault = f"the result is off by {gap:.2g}"
        # Compilers and kernels fail in many ways.
        except Exception as error:
            fault = explain(error)
        text = f"{device}: {fault}; {remedy}."
        raise (
            ValueError(text)
            if used
            else Imperfect(f"{text} This config does not use it.")
        )


CHECKS = (devices, batch, xla, bfloat16, all_reduce)
