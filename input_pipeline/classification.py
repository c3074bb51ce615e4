"""Batches of labelled rows for fine-tuning and its validation.

B rows of the global batch, R slots, S documents a row.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import labelled_rows, manifest, stream
from input_pipeline.documents import Documents

_ROWS_AT_ONCE = 256


def training_batches(
    prepared: manifest.Prepared,
    config: schema.Config,
    *,
    first_step: int = 0,
    **part: Any,
) -> tf.data.Dataset:
    """Batches of `labelled_rows.unpack`, one for every local replica and step.

    Where documents may have several labels, `labels` is bool [B, S, C].
    Endless, from `first_step` on; the order is that of `finetune.seed`. `part`
    is `shard` and `num_replicas` of `stream.replica_batches`.
    """
    rows = stream.training_rows(
        prepared,
        seed=config.finetune.seed,
        first_step=first_step,
        global_batch_size=config.finetune.global_batch_size,
    )
    return _batches(rows, prepared, config, **part)


def validation_batches(
    prepared: manifest.Prepared, config: schema.Config, **part: Any
) -> tf.data.Dataset:
    """The same for validation: every row once, always in the same order."""
    rows = stream.validation_rows(
        prepared, global_batch_size=config.finetune.global_batch_size
    )
    return _batches(rows, prepared, config, **part)


def documents(
    prepared: manifest.Prepared,
    config: schema.Config,
    role: str,
    *,
    most_tokens: int = 0,
) -> Documents:
    """All documents of a role, in stored order.

    Where they have more than `most_tokens`, if that is not 0, every second row
    is left out, or more, at even distances.
    """
    layout = labelled_rows.Layout.of(config, prepared.documents_per_row)
    rows = stream.stored_rows(prepared, role)
    if most_tokens:
        every = -(-prepared.roles[role].num_tokens // most_tokens)
        rows = rows.shard(max(1, every), 0)
    # Where there is no row, the labels still have their shape.
    rows = rows.batch(_ROWS_AT_ONCE)
    nothing = tf.zeros([0, prepared.row_width], prepared.dtype)
    return Documents.joined(
        [
            documents_of(_unpacked(some, prepared, layout))
            for some in (nothing, *rows)
        ]
    )


def documents_of(batch: dict[str, tf.Tensor]) -> Documents:
    """The documents of a batch, those of a row side by side."""
    used = batch["label_weights"].numpy() > 0  # [B, S]
    is_text = batch["segment_ids"].numpy() > 0  # [B, R]
    number = np.cumsum(used).reshape(used.shape) - 1
    row, _ = np.nonzero(is_text)
    # Segments and documents count from 1 in every row.
    segments = batch["segment_ids"].numpy()[is_text]
    return Documents(
        batch["token_ids"].numpy()[is_text],
        (row * is_text.shape[1] + segments).astype(np.int32),
        number[row, batch["document_ids"].numpy()[is_text] - 1].astype(
            np.int32
        ),
        batch["labels"].numpy()[used],
    )


def _unpacked(
    rows: tf.Tensor, prepared: manifest.Prepared, layout: labelled_rows.Layout
) -> dict[str, tf.Tensor]:
    """`labelled_rows.unpack`, but several labels are bool [B, S, C]."""
    batch = labelled_rows.unpack(rows, layout)
    if prepared.multilabel:
        table = tf.constant(prepared.label_table)
        batch["labels"] = tf.gather(table, batch["labels"])
    return batch


def _batches(
    rows: tf.data.Dataset,
    prepared: manifest.Prepared,
    config: schema.Config,
    *,
    shard: stream.Shard | None = None,
    num_replicas: int = 1,
) -> tf.data.Dataset:
    layout = labelled_rows.Layout.of(config, prepared.documents_per_row)
    return stream.replica_batches(
        rows,
        lambda number, slots, first: _unpacked(slots, prepared, layout),
        row_width=prepared.row_width,
        global_batch_size=config.finetune.global_batch_size,
        shard=shard or stream.Shard(),
        num_replicas=num_replicas,
    )
