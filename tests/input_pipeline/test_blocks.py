import errno
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import blocks

LENGTH = 8
ROW_BYTES = 2 * LENGTH


def _write(directory, num_rows, *, rows_per_block=5, at_once=3):
    """Writes rows 0, 1, 2, ...; returns facts and the blocks of each file."""
    rows = np.arange(num_rows * LENGTH, dtype="<u2").reshape(-1, LENGTH)
    writer = blocks.BlockWriter(directory, "train", rows_per_block)
    for start in range(0, num_rows, at_once):
        writer.write(rows[start : start + at_once])
    facts = writer.close()
    records = [
        [
            np.frombuffer(record, "<u2").reshape(-1, LENGTH)
            for record in tf.data.TFRecordDataset(
                str(directory / file)
            ).as_numpy_iterator()
        ]
        for file in facts["files"]
    ]
    return rows, facts, records


@pytest.mark.parametrize("num_rows", [1, 4, 5, 6, 14, 15, 16])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_all_blocks_but_the_last_are_full(tmp_path, num_rows, at_once):
    rows, facts, records = _write(tmp_path, num_rows, at_once=at_once)
    (records,) = records
    sizes = [len(record) for record in records]
    assert sizes[:-1] == [5] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= 5
    np.testing.assert_array_equal(np.concatenate(records), rows)
    assert facts == {
        "files": ["train-00000.tfrecord"],
        "blocks": [len(sizes)],
        "num_rows": num_rows,
    }


@pytest.mark.parametrize(
    ("shard_bytes", "per_shard"),
    [
        # The short last block fits where a full one does not.
        (15 * ROW_BYTES - 1, [2, 2, 3]),
        (15 * ROW_BYTES, [3, 3, 1]),
        (1, [1] * 7),  # A block never fits, and each is written.
    ],
)
def test_shards_are_cut_between_blocks(
    tmp_path, monkeypatch, shard_bytes, per_shard
):
    monkeypatch.setattr(blocks, "_SHARD_BYTES", shard_bytes)
    rows, facts, records = _write(tmp_path, 33)
    assert facts["blocks"] == per_shard
    assert [len(file) for file in records] == per_shard
    assert facts["files"] == [
        f"train-{number:05d}.tfrecord" for number in range(len(per_shard))
    ]
    np.testing.assert_array_equal(np.concatenate(sum(records, [])), rows)


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="needs a device that is full"
)
@pytest.mark.parametrize("num_rows", [2, 5, 100_000])
def test_a_full_device_is_an_oserror_that_names_the_file(tmp_path, num_rows):
    path = tmp_path / "train-00000.tfrecord"
    path.symlink_to(pathlib.Path("/dev/full"))
    writer = blocks.BlockWriter(tmp_path, "train", 5)
    with pytest.raises(OSError, match="No space left") as caught:
        writer.write(np.zeros([num_rows, LENGTH], "<u2"))
        writer.close()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
