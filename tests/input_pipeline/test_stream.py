import pathlib

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import stream

# Rows a block, blocks a window: see the fixture `create_prepared`.
K, W = 4, 3


def _read(prepared, *, first_step=0, num_steps, size=1, seed=0):
    """The numbers of the rows, [num_steps, size], and of the steps."""
    dataset = stream.training_rows(
        prepared, seed=seed, first_step=first_step, global_batch_size=size
    )
    steps, slots = zip(
        *dataset.take(num_steps).as_numpy_iterator(), strict=True
    )
    assert {rows.shape for rows in slots} == {(size, prepared.sequence_length)}
    assert all((rows[:, 1:] == 2).all() for rows in slots)
    return np.array(slots)[:, :, 0].astype(int) - 2**15 - 3, list(steps)


def _flip(file, place):
    path = pathlib.Path(file)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "num_rows",
    [
        *(1, K - 1, K, K + 1, 2 * K),
        *(W * K - 1, W * K, W * K + 1),
        *(3 * W * K - 1, 3 * W * K, 3 * W * K + 1, 97),
    ],
)
def test_every_row_once_an_epoch(create_prepared, num_rows):
    prepared = create_prepared(train=num_rows)
    rows, _ = _read(prepared, num_steps=3 * num_rows)
    epochs = rows.reshape(3, num_rows)
    for epoch in epochs:
        assert sorted(epoch) == list(range(num_rows))
    if num_rows >= 2 * K:
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_batches_cross_the_end_of_an_epoch(create_prepared):
    prepared = create_prepared(train=29)
    alone, _ = _read(prepared, num_steps=87)
    rows, steps = _read(prepared, num_steps=12, size=7)
    assert steps == list(range(12))
    np.testing.assert_array_equal(rows.ravel(), alone.ravel()[:84])


def test_rows_and_blocks_are_shuffled(create_prepared):
    num_rows = 20 * K
    rows, _ = _read(create_prepared(train=num_rows), num_steps=num_rows)
    rows = rows.ravel()
    # A window holds W whole blocks, not in their order, rows not either.
    for start in range(0, num_rows - W * K + 1, W * K):
        window = rows[start : start + W * K]
        blocks = np.unique(window // K)
        assert len(blocks) == W
        assert sorted(window) == [b * K + i for b in blocks for i in range(K)]
        assert list(window) != sorted(window)
    order = [int(b) for b in dict.fromkeys(rows // K)]
    assert abs(np.corrcoef(order, range(20))[0, 1]) < 0.9


def test_golden_rows(create_prepared):
    # Pinned: a run that another version resumes must see the same rows.
    rows, _ = _read(create_prepared(train=13), num_steps=2, size=13, seed=4)
    assert rows.tolist() == [
        [7, 0, 10, 5, 9, 4, 2, 3, 6, 8, 1, 11, 12],
        [11, 0, 9, 4, 5, 6, 7, 3, 2, 10, 1, 8, 12],
    ]


def test_any_step_of_two_epochs_resumes_the_same(create_prepared):
    prepared = create_prepared(train=2 * W * K + 3)
    num_steps = 2 * 27 // 13 + 1
    whole, _ = _read(prepared, num_steps=num_steps + 2, size=13)
    for first in range(num_steps):
        rows, steps = _read(prepared, first_step=first, num_steps=2, size=13)
        assert steps == [first, first + 1]
        np.testing.assert_array_equal(rows, whole[first : first + 2])


@pytest.mark.parametrize("first_step", [10**9, 10**12])
def test_far_steps_are_whole_epochs_too(create_prepared, first_step):
    prepared = create_prepared(train=27)
    first_step -= first_step % 27  # The start of an epoch of batches.
    rows, steps = _read(prepared, first_step=first_step, num_steps=27, size=5)
    assert steps[0] == first_step
    assert np.bincount(rows.ravel()).tolist() == [5] * 27


def test_the_number_of_shards_changes_nothing(create_prepared, monkeypatch):
    several = create_prepared(train=70)
    assert len(several.roles["train"].files) == 3
    many, _ = _read(several, num_steps=70)
    monkeypatch.setattr("input_pipeline.blocks._SHARD_BYTES", 2**20)
    single = create_prepared(train=70)
    assert len(single.roles["train"].files) == 1
    one, _ = _read(single, num_steps=70)
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_flipped_byte_raises(create_prepared, place):
    prepared = create_prepared(train=20)
    _flip(prepared.roles["train"].files[0], place)
    with pytest.raises(tf.errors.OpError):
        _read(prepared, num_steps=20)


@pytest.mark.parametrize("num_bytes", [0, 80, 100])
def test_a_file_that_ends_early_raises(create_prepared, num_bytes):
    prepared = create_prepared(train=20)
    path = pathlib.Path(prepared.roles["train"].files[-1])
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(tf.errors.OpError):
        _read(prepared, num_steps=20)


@pytest.mark.parametrize("num_rows", [K - 1, K + 1])
def test_a_block_with_other_rows_raises(create_prepared, num_rows):
    prepared = create_prepared(train=20)
    (file,) = prepared.roles["train"].files
    *blocks, last = tf.data.TFRecordDataset(file).as_numpy_iterator()
    with tf.io.TFRecordWriter(file) as writer:
        for block in [*blocks, (2 * last)[: num_rows * 16]]:
            writer.write(block)
    with pytest.raises(tf.errors.InvalidArgumentError):
        _read(prepared, num_steps=20)


def _validation(prepared, size):
    dataset = stream.validation_rows(prepared, global_batch_size=size)
    return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("num_rows", [0, 1, 9, 10, 11, 23])
def test_validation_is_every_row_once_and_then_padding(
    create_prepared, num_rows
):
    batches = _validation(create_prepared(validation=num_rows), 10)
    assert [number for number, _ in batches] == list(range(-(-num_rows // 10)))
    if not num_rows:
        return
    rows = np.concatenate([slots for _, slots in batches])
    assert len(rows) % 10 == 0
    assert rows[:num_rows, 0].tolist() == [
        2**15 + 3 + row for row in range(num_rows)
    ]
    assert not rows[num_rows:].any()


def test_validation_cut_at_a_record_raises(create_prepared):
    prepared = create_prepared(validation=20)
    (file,) = prepared.roles["validation"].files
    path = pathlib.Path(file)
    assert path.stat().st_size == 5 * 80
    path.write_bytes(path.read_bytes()[:240])
    with pytest.raises(tf.errors.OpError, match="20 elements.*12 elements"):
        _validation(prepared, 10)
