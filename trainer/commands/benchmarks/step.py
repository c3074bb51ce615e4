"""`benchmark.what=step`: one training step, and what bounds it."""

import dataclasses
import statistics
from typing import Any

import numpy as np
import tensorflow as tf

from configs import schema
from configs.runtime import Runtime
from trainer.commands.benchmarks import (
    flops,
    graphs,
    machine,
    steps,
    timing,
)
from trainer.run import Run
from trainer.stages import pretraining_task, tasks

# What the verdict looks at, see `_verdict`.
_INPUT_SHARE, _COMPUTE_SHARE, _FIXED_SHARE = 0.05, 0.5, 0.7


def measure(
    config: schema.Config, workdir: str, runtime: Runtime
) -> dict[str, Any]:
    """Time, useful FLOPs and memory of a step.

    Steps on batches from memory, on batches from the input, and on a quarter
    of the rows take turns with the machine's largest matrix products and,
    where `benchmark.reference` asks for it, with the dense reference, whose
    rows hold one document each.
    """
    memory = _memory(config, runtime)  # First: a GPU has one owner.
    task = steps.create_task(config, runtime)
    kept = steps.Steps(task, kept=True)
    calls: dict[str, timing.Call] = {
        "step": kept,
        "fed": steps.Steps(task, kept=False),
    }
    if quarter := _quarter(task):
        calls["quarter"] = steps.Steps(quarter, kept=True)
    if config.benchmark.reference:
        calls["reference"] = steps.create_reference(config, runtime)
    seconds = timing.in_turns(
        calls | machine.matmuls(), num_rounds=config.benchmark.num_rounds
    )
    work = _Work.of(task)
    result = {
        **_describe(task, work, seconds),
        **memory,
        **_largest(graphs.largest_tensor(kept.trace())),
    }
    waits = _input_share(seconds)
    result["input_share"] = round(waits, 3)
    result["verdict"] = _verdict(
        seconds, waits=waits, share_of_peak=result["share_of_matmul_peak"]
    )
    if config.benchmark.reference:
        result |= _compare(config, runtime, work, seconds)
    return result


@dataclasses.dataclass(frozen=True)
class _Work:
    """What a step has to do, as a mean over the batches."""

    num_tokens: float  # Padding left out.
    num_predicted: float
    flops: float

    @classmethod
    def of(cls, task: tasks.Task) -> "_Work":
        batches = steps.first_batches(task.config, task.prepared)
        return cls(*np.mean([_work(task, batch) for batch in batches], 0))


def _work(
    task: tasks.Task, batch: dict[str, tf.Tensor]
) -> tuple[float, float, float]:
    segment_ids = batch["segment_ids"].numpy()
    num_predicted = float(np.count_nonzero(batch["mask_weights"]))
    return (
        float(np.count_nonzero(segment_ids)),
        num_predicted,
        flops.masked_lm(
            task.config.model,
            vocabulary_size=task.prepared.tokenizer.vocabulary_size,
            segment_ids=segment_ids,
            num_predicted=num_predicted,
        ),
    )


def _memory(config: schema.Config, runtime: Runtime) -> dict[str, Any]:
    ours = machine.peak_bytes(steps.create_steps, config, runtime)
    result: dict[str, Any] = {"peak_memory_bytes": ours}
    if config.benchmark.reference:
        dense = machine.peak_bytes(steps.create_reference, config, runtime)
        result["reference_peak_memory_bytes"] = dense
        result["memory_ratio"] = round(dense / ours, 2)
    return result


def _quarter(
    task: pretraining_task.PretrainingTask,
) -> pretraining_task.PretrainingTask | None:
    """With a quarter of the rows; None where they cannot be divided."""
    train = task.train
    rows, left = divmod(train.global_batch_size, 4)
    parts = train.accumulation_steps * task.strategy.num_replicas_in_sync
    if not rows or left or rows % parts:
        return None
    train = dataclasses.replace(train, global_batch_size=rows)
    config = dataclasses.replace(task.config, train=train)
    return dataclasses.replace(task, config=config, train=train)


def _describe(
    task: tasks.Task, work: _Work, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    train, strategy = task.train, task.strategy
    times = timing.describe(seconds["step"], parts=train.steps_per_call)
    median = statistics.median(seconds["step"]) / train.steps_per_call
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    return {
        **times,
        "rows": train.global_batch_size,
        "real_tokens": round(work.num_tokens, 1),
        "predicted_slots": round(work.num_predicted, 1),
        "real_tokens_per_second": round(work.num_tokens / median),
        "precision": task.arithmetic.precision,
        "xla": task.arithmetic.jit,
        **machine.describe_work(
            work.flops,
            median,
            seconds,
            precision=task.arithmetic.precision,
            # Logical devices share the physical one.
            num_devices=min(strategy.num_replicas_in_sync, num_gpus or 1),
        ),
    }


def _largest(tensor: graphs.Largest) -> dict[str, Any]:
    return {
        "largest_tensor_bytes": tensor.num_bytes,
        "largest_tensor": f"{tensor.name} {list(tensor.shape)}",
    }


def _input_share(seconds: dict[str, list[float]]) -> float:
    """Of the time of a step on batches from the input, what it costs them.

    Round by round; below 0 where noise is larger.
    """
    pairs = zip(seconds["step"], seconds["fed"], strict=True)
    return 1 - statistics.median(kept / fed for kept, fed in pairs)


def _verdict(
    seconds: dict[str, list[float]], *, waits: float, share_of_peak: float
) -> str:
    """What bounds the step, from how long its variants take."""
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    if waits > _INPUT_SHARE:
        return f"input: a step waits {waits:.0%} of its time for its batch"
    if share_of_peak >= _COMPUTE_SHARE:
        return f"compute: {share_of_peak:.0%} of the matmul peak is useful"
    fixed = medians.get("quarter", 0.0) / medians["step"]
    if fixed > _FIXED_SHARE:
        return f"launches: a quarter of the rows takes {fixed:.0%} of the time"
    return (
        f"memory: {share_of_peak:.0%} of the matmul peak is useful, a quarter"
        f" of the rows takes {fixed:.0%} of the time"
    )


def _compare(
    config: schema.Config,
    runtime: Runtime,
    work: _Work,
    seconds: dict[str, list[float]],
) -> dict[str, Any]:
    """With the dense reference, by step and by real token."""
    ours = [value / config.train.steps_per_call for value in seconds["step"]]
    compared = timing.compare(ours, seconds["reference"])
    example = steps.with_documents(config)
    batches = steps.first_batches(
        example, Run(example, workdir="", runtime=runtime).rows
    )
    tokens = float(
        np.mean([np.count_nonzero(batch["segment_ids"]) for batch in batches])
    )
    return {
        **compared,
        "reference_real_tokens": round(tokens, 1),
        "ratio_per_real_token": round(
            compared["ratio_median"] * work.num_tokens / tokens, 2
        ),
    }
