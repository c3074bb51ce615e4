"""`--mode=inspect`: what the model will see, as JSON lines."""

import json
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline import pretraining, stream
from input_pipeline import tokenizer as tokenizer_lib
from trainer.run import Run
from trainer.training import strategies


def run(run: Run) -> None:
    """Prints one JSON object a step; the chief of a cluster prints."""
    # Devices first: they cannot be split once TensorFlow has read a row.
    config, strategy, rows = run.config, run.strategy, run.rows
    strategies.check_batch(strategy, config.train)
    # Not the batches of another run.
    run.require_same("encoder", "pretrain", run.encoder_sources())
    first, number = config.inspect.step, config.inspect.num_steps
    batches = strategies.distribute(
        strategy,
        lambda index, count, num_replicas: pretraining.training_batches(
            rows,
            config,
            first_step=first,
            shard=stream.Shard(index, count),
            num_replicas=num_replicas,
        ),
    )

    # The global batch, from the parts of all replicas. One graph for all
    # tensors, because gathering eagerly takes seconds a step.
    @tf.function(autograph=False)
    def gather(batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        return {
            key: strategy.gather(value, axis=0) for key, value in batch.items()
        }

    steps = range(first, first + number)
    for step, batch in zip(steps, map(gather, batches), strict=False):
        if not run.is_chief:
            continue
        arrays = {key: value.numpy() for key, value in batch.items()}
        num_rows = min(config.inspect.num_rows, len(arrays["token_ids"]))
        line = {
            "step": step,
            "digest": pretraining.digest(batch),
            "real_tokens": int(np.count_nonzero(arrays["segment_ids"])),
            "masked": int(arrays["mask_weights"].sum()),
            "rows": [
                _show({key: v[n] for key, v in arrays.items()}, rows.tokenizer)
                for n in range(num_rows)
            ],
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)


def _show(
    row: dict[str, np.ndarray], tokenizer: tokenizer_lib.Tokenizer
) -> dict[str, Any]:
    """The segments of a row as text, and the answers to its masks in order."""
    ids, segments = row["token_ids"], row["segment_ids"]
    used = row["mask_weights"] > 0
    order = np.argsort(row["mask_positions"][used])
    labels = row["mask_labels"][used][order]
    return {
        "segments": [
            tokenizer.decode(ids[segments == number + 1])
            for number in range(segments.max(initial=0))
        ],
        "answers": [tokenizer.vocabulary[label] for label in labels],
    }
