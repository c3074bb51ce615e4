"""Tests of trainer/modeling/pieces.py."""

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from input_pipeline import packing, strings
from trainer import modeling
from trainer.modeling import pieces

WORDS = strings.SpecialIds(padding=0, unknown=1, mask=9)
WRAPPED = strings.SpecialIds(padding=0, unknown=1, mask=9, start=2, end=3)
LENGTH = 8


def documents(lengths):
    generator = np.random.default_rng(0)
    return [generator.integers(4, 9, n, np.int32) for n in lengths]


def ragged(rows):
    return tf.ragged.constant(
        [list(row) for row in rows],
        dtype=tf.int32,
        ragged_rank=1,
        row_splits_dtype=tf.int64,
    )


def packed(ids, special):
    """The rows of one document, as training packs it: [rows, L]."""

    def wrap(part):
        ends = ([special.start], [special.end]) if special.end > 0 else ([], [])
        return np.concatenate([ends[0], part, ends[1]]).astype(np.int32)

    rows, _ = packing.pack(
        [ids],
        policy="fill",
        length=LENGTH,
        wrap=wrap,
        num_wrapping=special.num_wrapping,
        dtype=np.dtype("<u2"),
    )
    return packing.unpack(tf.constant(rows))


@pytest.mark.parametrize("special", [WORDS, WRAPPED])
@pytest.mark.parametrize(
    "lengths",
    [[], [0, 0], [6, 0, 7, 8, 9], [25, 5, 12], [0, 16, 17, 0]],
)
def test_pieces_are_those_of_packing(special, lengths):
    texts = documents(lengths)
    room = LENGTH - special.num_wrapping
    parts, owners = pieces.cut(ragged(texts), room=room)
    batch = pieces.batch(parts, special, length=LENGTH)
    expected = [packed(ids, special) for ids in texts]
    for key in ("token_ids", "segment_ids", "position_ids"):
        rows = [np.zeros([0, LENGTH]), *(one[key] for one in expected)]
        np.testing.assert_array_equal(batch[key], np.concatenate(rows))
    numbers = [len(one["token_ids"]) for one in expected]
    assert list(owners) == list(np.repeat(np.arange(len(texts)), numbers))


def test_rows_are_as_long_as_the_longest_piece():
    for lengths, width in (([], 1), ([0], 1), ([3, 0, 2], 3), ([8], 8)):
        batch = pieces.batch(ragged(documents(lengths)), WORDS)
        for value in batch.values():
            assert value.shape == (len(lengths), width)
            assert value.dtype == tf.int32


@pytest.mark.parametrize("number", [0, 3, 4, 5, 11])
def test_groups_are_no_larger_than_asked_and_keep_the_order(number):
    rows = ragged(documents([(7 * n) % 5 for n in range(number)]))
    seen = []

    def function(group):
        seen.append(int(group.nrows()))
        return [
            tf.reduce_sum(group, axis=1),
            tf.cast(group.row_lengths(), tf.float32)[:, tf.newaxis],
        ]

    like = [tf.TensorSpec([None], tf.int32)]
    like.append(tf.TensorSpec([None, 1], tf.float32))
    sums, lengths = pieces.in_groups(rows, function, size=4, like=like)
    assert list(sums) == [sum(row) for row in rows.to_list()]
    assert lengths[:, 0].numpy().tolist() == [
        len(row) for row in rows.to_list()
    ]
    assert sum(seen) == number
    assert max(seen) <= 4


@pytest.mark.parametrize(
    ("special", "attend_padding"), [(WORDS, True), (WRAPPED, False)]
)
def test_embed_is_the_mean_over_all_slots(special, attend_padding, monkeypatch):
    monkeypatch.setattr(pieces, "ROWS_AT_ONCE", 3)
    encoder = modeling.Encoder.from_model_config(
        schema.ModelConfig(
            num_layers=1,
            hidden_size=8,
            num_heads=2,
            intermediate_size=8,
            attend_padding=attend_padding,
        ),
        vocabulary_size=10,
        sequence_length=LENGTH,
        dtype="float32",
    )
    encoder.build(None)
    texts = documents([5, 0, 8, 9, 25, 1])
    found = pieces.embed(encoder, ragged(texts), special).numpy()
    assert found.shape == (6, 8) and found.dtype == np.float32
    for ids, one in zip(texts, found, strict=True):
        if not len(ids):
            assert not one.any()
            continue
        rows = packed(ids, special)
        states = encoder(rows).numpy()[rows["segment_ids"].numpy() > 0]
        np.testing.assert_allclose(one, states.mean(0), atol=1e-5)
