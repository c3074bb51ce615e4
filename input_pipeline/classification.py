"""Batches of labelled rows for fine-tuning and its validation.

B rows of the global batch, R slots, S documents a row.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import labelled_rows, manifest, stream

_ROWS_AT_ONCE = 256


class Documents(NamedTuple):
    """Labelled documents as one flat run of tokens."""

    token_ids: np.ndarray  # int32 [T]
    segments: np.ndarray  # int32 [T], the piece of text a token stands in.
    owners: np.ndarray  # int32 [T], the document, 0 to N - 1.
    labels: np.ndarray  # int32 [N]

    @classmethod
    def joined(cls, groups: Sequence[Self]) -> Self:
        """All documents of the groups, each of which counts from 0."""
        first_segments = np.cumsum(
            [0, *(g.segments.max(initial=0) + 1 for g in groups)]
        )
        first_documents = np.cumsum([0, *(len(g.labels) for g in groups)])
        none = np.zeros([0], np.int32)
        parts = zip(groups, first_segments, first_documents, strict=False)
        columns = [
            (g.token_ids, g.segments + s, g.owners + d, g.labels)
            for g, s, d in parts
        ] or [(none, none, none, none)]
        return cls(
            *(
                np.concatenate(column).astype(np.int32)
                for column in zip(*columns, strict=True)
            )
        )


def training_batches(
    prepared: manifest.Prepared,
    config: schema.Config,
    *,
    first_step: int = 0,
    shard: stream.Shard | None = None,
    num_replicas: int = 1,
) -> tf.data.Dataset:
    """Batches of `labelled_rows.unpack`, one for every local replica and step.

    Endless, from `first_step` on; the order is that of `finetune.seed`. The
    other arguments are those of `stream.replica_batches`.
    """
    rows = stream.training_rows(
        prepared,
        seed=config.finetune.seed,
        first_step=first_step,
        global_batch_size=config.finetune.global_batch_size,
    )
    return _batches(rows, prepared, config, shard, num_replicas)


def validation_batches(
    prepared: manifest.Prepared,
    config: schema.Config,
    *,
    shard: stream.Shard | None = None,
    num_replicas: int = 1,
) -> tf.data.Dataset:
    """The same for validation: every row once, always in the same order."""
    rows = stream.validation_rows(
        prepared, global_batch_size=config.finetune.global_batch_size
    )
    return _batches(rows, prepared, config, shard, num_replicas)


def documents(
    prepared: manifest.Prepared, config: schema.Config, role: str
) -> Documents:
    """All documents of a role, "train" or "validation", in stored order."""
    layout = labelled_rows.Layout.of(config, prepared.documents_per_row)
    found = [
        documents_of(labelled_rows.unpack(rows, layout))
        for rows in stream.stored_rows(prepared, role).batch(_ROWS_AT_ONCE)
    ]
    return Documents.joined(found)


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


def _batches(
    rows: tf.data.Dataset,
    prepared: manifest.Prepared,
    config: schema.Config,
    shard: stream.Shard | None,
    num_replicas: int,
) -> tf.data.Dataset:
    layout = labelled_rows.Layout.of(config, prepared.documents_per_row)
    return stream.replica_batches(
        rows,
        lambda number, slots, first: labelled_rows.unpack(slots, layout),
        row_width=prepared.row_width,
        global_batch_size=config.finetune.global_batch_size,
        shard=shard or stream.Shard(),
        num_replicas=num_replicas,
    )
