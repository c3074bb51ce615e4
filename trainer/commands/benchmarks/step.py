"""`benchmark.what=step`: one training step, and what bounds it."""

import dataclasses
import statistics
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.commands.benchmarks import (
    flops,
    graphs,
    machine,
    steps,
    timing,
)
from trainer.run import Run
from trainer.stages import pretraining_task

# What the verdict looks at, see `_verdict`.
_INPUT_SHARE, _COMPUTE_SHARE, _FIXED_SHARE = 0.05, 0.5, 0.7


def measure(run: Run) -> dict[str, Any]:
    """Time, useful FLOPs and memory of a step.

    Steps on batches from memory, on batches from the input, and on a quarter
    of the rows take turns with the machine's largest matrix products and,
    where `benchmark.reference` asks for it, with the dense reference.
    """
    config = run.config
    with_reference = config.benchmark.reference
    # Memory first, in other processes, because a GPU has one owner.
    bytes_used = {
        "": machine.peak_bytes(steps.create_steps, config, run.runtime)
    }
    if with_reference:
        bytes_used["reference_"] = machine.peak_bytes(
            steps.create_reference, config, run.runtime
        )

    task = steps.create_task(run)
    kept = steps.of_task(task, kept=True)
    calls: dict[str, timing.Call] = {
        "step": kept,
        "fed": steps.of_task(task, kept=False),
    }
    if quarter := _quarter(task):
        calls["quarter"] = steps.of_task(quarter, kept=True)
    if with_reference:
        calls["reference"] = steps.create_reference(config, run.runtime)
    seconds = timing.in_turns(
        calls | machine.matmuls(), num_rounds=config.benchmark.num_rounds
    )

    num_tokens, num_predicted, num_flops = work(run)
    train, precision = task.train, task.arithmetic.precision
    median = statistics.median(seconds["step"]) / train.steps_per_call
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    num_bytes, largest = graphs.largest_tensor(kept.trace())
    # What a step on batches from the input costs more, of its time, round by
    # round; below 0 where noise is larger.
    pairs = zip(seconds["step"], seconds["fed"], strict=True)
    waits = 1 - statistics.median(kept / fed for kept, fed in pairs)
    result: dict[str, Any] = {
        **timing.describe(seconds["step"], parts=train.steps_per_call),
        "rows": train.global_batch_size,
        "real_tokens": round(num_tokens, 1),
        "predicted_slots": round(num_predicted, 1),
        "real_tokens_per_second": round(num_tokens / median),
        "precision": precision,
        "xla": task.arithmetic.jit,
        **machine.describe_work(
            num_flops,
            median,
            seconds,
            precision=precision,
            # Logical devices share the physical one.
            num_devices=min(run.strategy.num_replicas_in_sync, num_gpus or 1),
        ),
        **{f"{k}peak_memory_bytes": v for k, v in bytes_used.items()},
        "largest_tensor_bytes": num_bytes,
        "largest_tensor": f"{largest.name} {largest.shape.as_list()}",
        "input_share": round(waits, 3),
    }
    result["verdict"] = _verdict(
        seconds, waits=waits, share_of_peak=result["share_of_matmul_peak"]
    )
    if with_reference:
        result["memory_ratio"] = round(
            bytes_used["reference_"] / bytes_used[""], 2
        )
        result |= _compare(run, num_tokens, seconds)
    return result


def work(run: Run) -> tuple[float, float, float]:
    """Real tokens, predicted slots and useful FLOPs of a step, on average."""
    found = []
    for batch in steps.first_batches(run):
        segment_ids = batch["segment_ids"].numpy()
        num_predicted = float(np.count_nonzero(batch["mask_weights"]))
        num_flops = flops.masked_lm(
            run.config.model,
            vocabulary_size=run.rows.tokenizer.vocabulary_size,
            segment_ids=segment_ids,
            num_predicted=num_predicted,
        )
        num_tokens = float(np.count_nonzero(segment_ids))
        found.append((num_tokens, num_predicted, num_flops))
    num_tokens, num_predicted, num_flops = np.mean(found, axis=0).tolist()
    return num_tokens, num_predicted, num_flops


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
    run: Run, num_tokens: float, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    """With the dense reference, by step and by real token."""
    steps_per_call = run.config.train.steps_per_call
    ours = [value / steps_per_call for value in seconds["step"]]
    compared = timing.compare(ours, seconds["reference"])
    config = run.config.changed({"data.packing": "document"})
    tokens, *_ = work(Run(config, workdir="", runtime=run.runtime))
    return {
        **compared,
        "reference_real_tokens": round(tokens, 1),
        "ratio_per_real_token": round(
            compared["ratio_median"] * num_tokens / tokens, 2
        ),
    }
