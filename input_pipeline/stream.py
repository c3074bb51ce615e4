"""Rows by position: place p of the training stream, from any step on.

p = step * B + i. An epoch is every row once. Its order: full blocks permuted
by `order`, the short block last, and rows shuffled inside windows of W blocks.
Where a window lies follows from arithmetic, so step 10^12 starts as fast as
step 0, and nothing has to be saved. L slots, K rows a block, B rows a batch.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from input_pipeline import manifest, order

# A TFRecord adds length and two checksums to a payload.
_RECORD_BYTES = 16
_MAX_INT64 = np.iinfo(np.int64).max
# (number of the global batch, slots [n, width] of it, place of the first)
Create = Callable[[tf.Tensor, tf.Tensor, int], dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of every global batch this host reads: `index` of `count`."""

    index: int = 0
    count: int = 1

    def slice_of(self, global_batch_size: int) -> slice:
        """The rows of the global batch."""
        size = global_batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)


def training_rows(
    prepared: manifest.Prepared,
    *,
    seed: int,
    first_step: int,
    global_batch_size: int,
) -> tf.data.Dataset:
    """(step int64 [], slots [B, L]) for steps first_step, first_step + 1, ...

    Endless; epochs follow each other without a gap.
    """
    epochs = _Epochs(prepared, seed)
    first_row = first_step * global_batch_size
    window, skip = epochs.locate(first_row)

    def rows(number: tf.Tensor) -> tf.Tensor:  # [n, L]
        return epochs.window(number)[tf.where(number == window, skip, 0) :]

    dataset = tf.data.Dataset.range(window, _MAX_INT64)
    dataset = dataset.map(rows, num_parallel_calls=2, deterministic=True)
    dataset = dataset.prefetch(1)
    dataset = dataset.rebatch(global_batch_size, drop_remainder=True)
    # Of a cluster that does not know it, workers ask each other at every step
    # whether a batch is left, and the shapes of the batches are lost.
    endless = tf.data.experimental.assert_cardinality(
        tf.data.INFINITE_CARDINALITY
    )
    return dataset.apply(endless).enumerate(first_step)


def validation_rows(
    prepared: manifest.Prepared, *, global_batch_size: int
) -> tf.data.Dataset:
    """(number int64 [], slots [B, L]); the last batch is filled with padding.

    Every row once, always in the same order; no batch where there is no row.
    """
    missing = -prepared.roles["validation"].num_rows % global_batch_size
    padding = tf.zeros([missing, prepared.row_width], prepared.dtype)
    rows = stored_rows(prepared, "validation").concatenate(
        tf.data.Dataset.from_tensor_slices(padding)
    )
    return rows.batch(global_batch_size, drop_remainder=True).enumerate()


def stored_rows(prepared: manifest.Prepared, role: str) -> tf.data.Dataset:
    """Every row of a role once, [width], in stored order."""
    files = prepared.roles[role].files
    rows = tf.data.TFRecordDataset(
        tf.constant(files, tf.string, [len(files)])
    ).flat_map(
        lambda block: tf.data.Dataset.from_tensor_slices(
            _decode(block[tf.newaxis], prepared)
        )
    )
    # A file that ends early must not pass for a shorter corpus.
    num_rows = prepared.roles[role].num_rows
    return rows.apply(tf.data.experimental.assert_cardinality(num_rows))


def replica_batches(
    rows: tf.data.Dataset,
    create: Create,
    *,
    row_width: int,
    global_batch_size: int,
    shard: Shard,
    num_replicas: int,
) -> tf.data.Dataset:
    """This host's part of every global batch, replica by replica.

    Args:
      rows: from `training_rows` or `validation_rows`.
      create: makes the batch of this host's rows; one call a step.
      row_width: of the stored rows.
      global_batch_size: B.
      shard: the part of the global batch that this host reads.
      num_replicas: replicas of this host; their batches come in turn.
    """
    own = shard.slice_of(global_batch_size)

    def make(number: tf.Tensor, slots: tf.Tensor) -> dict[str, tf.Tensor]:
        slots = tf.ensure_shape(slots[own], [own.stop - own.start, row_width])
        return create(number, slots, own.start)

    def split(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            key: tf.reshape(value, [num_replicas, -1, *value.shape[1:]])
            for key, value in batch.items()
        }

    batches = rows.map(make, num_parallel_calls=2, deterministic=True)
    if num_replicas > 1:
        batches = batches.map(split).unbatch()
    return batches.prefetch(2 * num_replicas).with_options(_options())


class _Epochs:
    """The endless sequence of windows."""

    def __init__(self, prepared: manifest.Prepared, seed: int):
        role = prepared.roles["train"]
        self._prepared = prepared
        self._seed = seed
        self._num_rows = role.num_rows
        self._num_blocks = role.num_blocks
        self._num_full = role.num_rows // prepared.rows_per_block
        self._window_rows = prepared.blocks_per_window * prepared.rows_per_block
        self._num_windows = -(-role.num_rows // self._window_rows)
        self._files = tf.constant(role.files)
        self._first_block = tf.constant(
            np.concatenate([[0], np.cumsum(role.blocks)]), tf.int64
        )

    def locate(self, row: int) -> tuple[int, int]:
        """The window that holds a row of the stream, and the place in it."""
        epoch, place = divmod(row, self._num_rows)
        window, skip = divmod(place, self._window_rows)
        return epoch * self._num_windows + window, skip

    def window(self, number: tf.Tensor) -> tf.Tensor:
        """Shuffled slots [rows, L] of a window of the stream."""
        epoch = number // self._num_windows
        place = number % self._num_windows
        size = self._prepared.blocks_per_window
        index = place * size + tf.range(size, dtype=tf.int64)
        index = tf.boolean_mask(index, index < self._num_blocks)
        blocks = tf.map_fn(
            self._read,
            self._permuted(index, epoch),
            fn_output_signature=tf.TensorSpec([], tf.string),
        )
        rows = _decode(blocks, self._prepared)
        expected = tf.minimum(
            tf.constant(self._window_rows, tf.int64),
            self._num_rows - place * self._window_rows,
        )
        expected = tf.cast(expected, tf.int32)
        with tf.control_dependencies(
            [tf.debugging.assert_equal(tf.shape(rows)[0], expected)]
        ):
            # Another key than the one that permutes the blocks.
            draws = tf.random.stateless_uniform(
                [expected],
                seed=tf.stack([tf.constant(~self._seed, tf.int64), number]),
                minval=None,
                maxval=None,
                dtype=tf.int32,
                alg="philox",
            )
        return tf.gather(rows, tf.argsort(draws))

    def _permuted(self, index: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        """Blocks at places `index` of an epoch; the short one stays last."""
        if self._num_full < 2:
            return index
        full = tf.minimum(index, self._num_full - 1)
        keys = order.keys(self._seed, epoch)
        shuffled = order.permute(full, self._num_full, keys)
        return tf.where(index < self._num_full, shuffled, index)

    def _read(self, block: tf.Tensor) -> tf.Tensor:
        """The payload of a block, string []; its checksum is compared."""
        side = tf.searchsorted(self._first_block, block[tf.newaxis], "right")
        file = tf.cast(side[0] - 1, tf.int64)
        place = block - tf.gather(self._first_block, file)
        size = self._prepared.block_bytes + _RECORD_BYTES
        return _record_at(tf.gather(self._files, file), place * size, size)


def _record_at(file: tf.Tensor, offset: tf.Tensor, size: int) -> tf.Tensor:
    """The record of a file at an offset; fails where there is none.

    tf.data's Python classes do not offer `byte_offsets`; the ops do.
    """
    kind = {"output_types": [tf.string], "output_shapes": [[]]}
    records = tf.raw_ops.TFRecordDatasetV2(
        filenames=file[tf.newaxis],
        compression_type="",
        buffer_size=size,
        byte_offsets=offset[tf.newaxis],
        metadata="",
    )
    first = tf.raw_ops.TakeDataset(input_dataset=records, count=1, **kind)
    return tf.raw_ops.DatasetToSingleElement(dataset=first, **kind)[0]


def _decode(blocks: tf.Tensor, prepared: manifest.Prepared) -> tf.Tensor:
    """Slots [rows, L] of blocks, string [n]; the last one may be short."""
    slots = tf.io.decode_raw(
        blocks, prepared.dtype, fixed_length=prepared.block_bytes
    )  # [n, K * L]
    row_bytes = prepared.row_width * prepared.dtype.itemsize
    num_rows = tf.reduce_sum(tf.strings.length(blocks)) // row_bytes
    slots = tf.reshape(slots, [-1, prepared.row_width])
    # Fails where a block is too long, which a Python slice would hide.
    return tf.slice(slots, [0, 0], [num_rows, prepared.row_width])


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    # Batches are made side by side; splitting one over threads costs more.
    options.threading.max_intra_op_parallelism = 1
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return options
