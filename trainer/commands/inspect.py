"""`--mode=inspect`: what the model will see, as JSON lines."""

import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import manifest, pretraining, stream
from input_pipeline import tokenizer as tokenizer_lib
from trainer.run import Run
from trainer.training import strategies


def run(run: Run) -> None:
    """Prints one JSON object a step; the chief of a cluster prints."""
    config, strategy, prepared = run.config, run.strategy, run.rows
    strategies.check_batch(strategy, config.train)
    # Not the batches of another run.
    run.require_same("encoder", "pretrain", run.encoder_sources())
    first, number = config.inspect.step, config.inspect.num_steps
    batches = global_batches(config, strategy, prepared, first_step=first)
    for step, batch in zip(range(first, first + number), batches, strict=False):
        if run.is_chief:
            shown = describe(batch, prepared.tokenizer, config.inspect.num_rows)
            line = {"step": step, "digest": pretraining.digest(batch), **shown}
            print(json.dumps(line, ensure_ascii=False), flush=True)


def global_batches(
    config: schema.Config,
    strategy: tf.distribute.Strategy,
    prepared: manifest.Prepared,
    *,
    first_step: int,
) -> Iterator[dict[str, tf.Tensor]]:
    """Global batches, put together from those of all replicas."""
    create = functools.partial(
        pretraining.training_batches, prepared, config, first_step=first_step
    )
    batches = strategies.distribute(
        strategy,
        lambda index, count, num_replicas: create(
            shard=stream.Shard(index, count), num_replicas=num_replicas
        ),
    )

    # One graph for all tensors: gathering eagerly takes seconds a step.
    @tf.function(autograph=False)
    def gather(batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        return {
            key: strategy.gather(value, axis=0) for key, value in batch.items()
        }

    yield from map(gather, batches)


def describe(
    batch: dict[str, tf.Tensor],
    tokenizer: tokenizer_lib.Tokenizer,
    num_rows: int,
) -> dict[str, Any]:
    """Counts of a global batch, and its first rows as text and answers."""
    arrays = {key: value.numpy() for key, value in batch.items()}
    return {
        "real_tokens": int(np.count_nonzero(arrays["segment_ids"])),
        "masked": int(arrays["mask_weights"].sum()),
        "rows": [
            _describe_row(
                {key: value[row] for key, value in arrays.items()}, tokenizer
            )
            for row in range(min(num_rows, len(arrays["token_ids"])))
        ],
    }


def _describe_row(
    row: dict[str, np.ndarray], tokenizer: tokenizer_lib.Tokenizer
) -> dict[str, Any]:
    used = row["mask_weights"] > 0
    order = np.argsort(row["mask_positions"][used])
    labels = row["mask_labels"][used][order]
    number = row["segment_ids"].max(initial=0)
    return {
        "segments": [
            tokenizer.decode(row["token_ids"][row["segment_ids"] == segment])
            for segment in range(1, number + 1)
        ],
        "answers": [tokenizer.vocabulary[label] for label in labels],
    }
