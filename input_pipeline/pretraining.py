"""Batches for masked-LM training and validation: rows, then masks.

B rows of the global batch, b = B / (hosts * replicas) of one replica,
L slots, P predictions a row.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import manifest, masking, packing, stream

_COUNTED_ROWS = 16_384  # By `log_frequencies`.
# The batch, in the order in which its digest reads it.
KEYS = (
    "token_ids",
    "segment_ids",
    "position_ids",
    "mask_positions",
    "mask_labels",
    "mask_weights",
)


def training_batches(
    prepared: manifest.Prepared,
    config: schema.Config,
    *,
    first_step: int = 0,
    **part: Any,
) -> tf.data.Dataset:
    """Batches of the KEYS, [b, ...], one for every local replica and step.

    Args:
      prepared: rows to read.
      config: seed, masking and global batch size.
      first_step: where to begin; any number starts at once.
      **part: `shard` and `num_replicas` of `stream.replica_batches`.
    """
    rows = stream.training_rows(
        prepared,
        seed=config.seed,
        first_step=first_step,
        global_batch_size=config.train.global_batch_size,
    )
    rate = functools.partial(masking.rate_at, config.masking)
    return _masked(rows, prepared, config, seed=config.seed, rate=rate, **part)


def validation_batches(
    prepared: manifest.Prepared, config: schema.Config, **part: Any
) -> tf.data.Dataset:
    """The same for validation: every row once, masks frozen for ever."""
    return _masked(
        stream.validation_rows(
            prepared, global_batch_size=config.train.global_batch_size
        ),
        prepared,
        config,
        seed=masking.EVALUATION_SEED,
        rate=lambda _: config.masking.evaluation_rate,
        **part,
    )


def _masked(
    rows: tf.data.Dataset,
    prepared: manifest.Prepared,
    config: schema.Config,
    *,
    seed: int,
    rate: Callable[[tf.Tensor], Any],  # Of the number of a global batch.
    shard: stream.Shard | None = None,
    num_replicas: int = 1,
) -> tf.data.Dataset:
    masker = create_masker(prepared, config)
    size = config.train.global_batch_size

    def mask(
        number: tf.Tensor, slots: tf.Tensor, first: int
    ) -> dict[str, tf.Tensor]:
        return masker(
            packing.unpack(slots),
            seed=seed,
            first_position=number * size + first,
            rate=rate(number),
        )

    return stream.replica_batches(
        rows,
        mask,
        row_width=prepared.row_width,
        global_batch_size=size,
        shard=shard or stream.Shard(),
        num_replicas=num_replicas,
    )


def log_frequencies(prepared: manifest.Prepared) -> np.ndarray:
    """The log frequency of every token in the first rows, float32 [V]."""
    vocabulary_size = prepared.tokenizer.vocabulary_size
    counts = np.full(vocabulary_size, 0.5)  # No token is impossible.
    rows = stream.stored_rows(prepared, "train").take(_COUNTED_ROWS)
    for slots in rows.batch(256):
        ids = packing.unpack(slots)["token_ids"].numpy()
        counts += np.bincount(ids.ravel(), minlength=vocabulary_size)
    counts[prepared.tokenizer.is_special] = 0.5
    return np.log(counts / counts.sum()).astype(np.float32)


def rare_rates(log_frequencies: np.ndarray) -> np.ndarray | None:
    """Frequencies of the rare tokens, for a softmax in two levels.

    Args:
      log_frequencies: of all tokens, float32 [V].

    Returns:
      How often each token from the K-th on occurs among those, float32
      [V - K]; None if two levels would not save two fifths of the softmax.
    """
    frequencies = np.exp(log_frequencies)
    cost, num_frequent = min(
        (k + 1 + frequencies[k:].sum() * (len(frequencies) - k), k)
        # With the cluster, a power of two.
        for k in (1_023, 2_047, 4_095, 8_191)
    )
    if cost > 0.6 * len(frequencies):
        return None
    rare = frequencies[num_frequent:]
    return rare / rare.sum()


def create_masker(
    prepared: manifest.Prepared, config: schema.Config
) -> masking.Masker:
    """The masker for these rows."""
    tokenizer = prepared.tokenizer
    return masking.Masker(
        config=config.masking,
        special=tokenizer.special,
        is_special=tokenizer.is_special,
        is_continuation=tokenizer.is_continuation,
        num_predictions=config.num_predictions,
    )


def digest(batch: dict[str, tf.Tensor]) -> str:
    """sha256 of a global batch: each tensor's little-endian C-order bytes."""
    state = hashlib.sha256()
    for key in KEYS:
        value = batch[key].numpy()
        state.update(value.astype(value.dtype.newbyteorder("<")).tobytes())
    return state.hexdigest()
