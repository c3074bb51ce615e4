"""The rows of the table in docs/soak.md that concern the data, in full."""

import collections
import itertools
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from input_pipeline import (
    masking,
    order,
    packing,
    pretraining,
    stream,
    tokenizer,
)

pytestmark = pytest.mark.soak

ROOT = pathlib.Path(__file__).resolve().parents[2]
POWERS = [4**k + d for k in range(7, 11) for d in (-1, 0, 1)]


def test_permutations(record):
    missing = twice = 0
    for size in [*range(1, 4097), *POWERS]:
        index = tf.range(size, dtype=tf.int64)
        places = order.permute(index, size, order.keys(size + 3, 11)).numpy()
        assert len(places) == size
        assert 0 <= places.min() <= places.max() < size
        seen = np.bincount(places, minlength=size)
        missing += int((seen == 0).sum())
        twice += int((seen > 1).sum())
    record(
        "permutation: sizes 1 to 4096, 4^k and 4^k ± 1 up to 1,048,577",
        f"{missing} missing, {twice} twice",
        "0 missing, 0 twice",
    )
    assert missing == twice == 0


def test_every_row_once_an_epoch(record, create_prepared):
    missing = twice = 0
    sizes = (1, 2, 3, 97, 1_009, 4_999)
    for size in sizes:
        prepared = create_prepared(train=size)
        dataset = stream.training_rows(
            prepared, seed=size, first_step=0, global_batch_size=1
        )
        rows = [
            int(slots[0, 0]) - 2**15 - 3
            for _, slots in dataset.take(3 * size).as_numpy_iterator()
        ]
        for epoch in range(3):
            seen = np.bincount(
                rows[epoch * size : (epoch + 1) * size], minlength=size
            )
            missing += int((seen == 0).sum())
            twice += int((seen > 1).sum())
    record(
        f"every row of an epoch once: {', '.join(map(str, sizes))} rows,"
        " 3 epochs",
        f"{missing} missing, {twice} twice",
        "0 missing, 0 twice",
    )
    assert missing == twice == 0


def test_orders_of_neighbouring_seeds_and_epochs(record, create_prepared):
    size, num_pairs = 2_003, 50
    # A block a row: with larger ones a row's place tells its neighbours'.
    prepared = create_prepared(train=size, rows_per_block=1)

    def orders(seed, num_epochs):
        dataset = stream.training_rows(
            prepared, seed=seed, first_step=0, global_batch_size=size
        )
        for _, slots in dataset.take(num_epochs).as_numpy_iterator():
            yield np.argsort(slots[:, 0])  # The place of every row.

    by_seed = [next(orders(seed, 1)) for seed in range(num_pairs + 1)]
    by_epoch = list(orders(7, num_pairs + 1))
    figures = {}
    for name, all_orders in (("seeds", by_seed), ("epochs", by_epoch)):
        figures[name] = max(
            abs(np.corrcoef(a, b)[0, 1]) * size**0.5
            for a, b in itertools.pairwise(all_orders)
        )
        record(
            f"orders of {num_pairs} pairs of neighbouring {name}, {size} rows",
            f"largest correlation {figures[name]:.2f}/sqrt(N)",
            "within 4/sqrt(N)",
        )
    assert max(figures.values()) <= 4


# --------------------------------------------------------------------- masks

V = 2_000
SPECIAL = tokenizer.SpecialIds(padding=0, unknown=1, mask=4, start=2, end=3)


def _masker(policy):
    is_special = np.zeros(V, bool)
    is_special[SPECIAL.ids()] = True
    is_continuation = np.zeros(V, bool)
    is_continuation[V // 2 :] = True
    return masking.Masker(
        config=schema.MaskingConfig(policy=policy),
        special=SPECIAL,
        is_special=is_special,
        is_continuation=is_continuation,
        num_predictions=39 + 2 * (policy == "whole_word"),
    )


def _zipf_rows(num_rows, length=256):
    """Packed documents of pieces, frequencies after Zipf; slots [rows, L]."""
    generator = np.random.default_rng(0)
    share = 1 / np.arange(1, V - 4)
    documents = []
    for size in generator.integers(5, 500, num_rows):
        ids = generator.choice(V - 5, size, p=share / share.sum()) + 5
        ids[generator.random(size) < 0.02] = SPECIAL.unknown
        documents.append(ids)
    slots, _ = packing.pack(
        documents,
        policy="fill",
        length=length,
        wrap=lambda ids: np.concatenate([[2], ids, [3]]),
        num_wrapping=2,
        dtype=np.dtype("<u2"),
    )
    return slots


@pytest.mark.parametrize("policy", ["token", "whole_word", "span"])
def test_masks_of_ten_million_tokens(record, policy):
    masker = _masker(policy)
    slots = _zipf_rows(4_000)

    @tf.function
    def mask(part, position):
        rows = packing.unpack(part)
        batch = masker(rows, seed=5, first_position=position, rate=0.15)
        return rows["token_ids"], batch

    selected_ids = np.zeros(V, np.int64)
    num_ordinary = position = 0
    kinds = collections.Counter()
    while num_ordinary < 10**7:
        start = position % len(slots) // 500 * 500
        part = slots[start : start + 500]
        ids, batch = mask(tf.constant(part), tf.constant(position, tf.int64))
        ids, batch = ids.numpy(), {k: v.numpy() for k, v in batch.items()}
        position += len(part)
        num_ordinary += int((~masker.is_special[ids]).sum())
        used = batch["mask_weights"] > 0
        labels = batch["mask_labels"][used]
        shown = np.take_along_axis(
            batch["token_ids"], batch["mask_positions"], axis=1
        )[used]
        selected_ids += np.bincount(labels, minlength=V)
        kinds["all"] += len(labels)
        kinds["mask"] += int((shown == SPECIAL.mask).sum())
        kinds["same"] += int((shown == labels).sum())
    num_special = int(selected_ids[masker.is_special].sum())
    num_never = int((selected_ids[~masker.is_special] == 0).sum())
    # A random id is by chance the one that stood there.
    kept = kinds["same"] / kinds["all"] - 0.1 / (V - 5)
    masked = kinds["mask"] / kinds["all"]
    rate = kinds["all"] / num_ordinary
    record(
        f"masks, {policy}, {num_ordinary:,} tokens",
        f"rate {100 * rate:.3f} %; {100 * masked:.2f} / "
        f"{100 * (1 - masked - kept):.2f} / {100 * kept:.2f};"
        f" special slots {num_special}, ids never masked {num_never},"
        f" the most frequent one {selected_ids[5]:,} times",
        "15 ± 0.1; 80 / 10 / 10 ± 0.3; 0; 0; above 0",
    )
    assert num_special == num_never == 0
    assert selected_ids[5] > 0
    assert abs(masked - 0.8) <= 0.003
    assert abs(kept - 0.1) <= 0.003
    assert abs(rate - 0.15) <= 0.001


def _config(*, size, length, seed=3):
    return schema.Config(
        seed=seed,
        data=schema.DataConfig(sequence_length=length),
        train=schema.TrainConfig(global_batch_size=size),
    )


@pytest.mark.parametrize("seed", [0, 7])
def test_masks_of_a_row_in_successive_epochs(record, create_prepared, seed):
    num_rows, length, num_epochs = 190, 256, 8
    prepared = create_prepared(train=num_rows, length=length)

    def epochs(num_threads):
        """bool [epochs, rows, L]: selected slots, rows by their number."""
        dataset = pretraining.training_batches(
            prepared, _config(size=num_rows, length=length, seed=seed)
        )
        options = tf.data.Options()
        options.threading.private_threadpool_size = num_threads
        dataset = dataset.with_options(options)
        selected = np.zeros([num_epochs, num_rows, length], bool)
        digests = []
        for epoch, batch in enumerate(dataset.take(num_epochs)):
            digests.append(pretraining.digest(batch))
            batch = {key: value.numpy() for key, value in batch.items()}
            for row, ids in enumerate(batch["token_ids"]):
                used = batch["mask_weights"][row] > 0
                places = batch["mask_positions"][row][used]
                ids[places] = batch["mask_labels"][row][used]
                selected[epoch, ids[0] - 3, places] = True
        return selected, digests

    selected, digests = epochs(1)
    replays = [epochs(threads)[1] == digests for threads in (1, 4)]
    overlap = expected = variance = 0.0
    for one, other in itertools.pairwise(selected):
        a, b = one.sum(axis=1), other.sum(axis=1)
        overlap += (one & other).sum()
        expected += (a * b / length).sum()
        variance += (
            a * b * (length - a) * (length - b) / length**2 / (length - 1)
        ).sum()
    deviation = (overlap - expected) / variance**0.5
    record(
        f"masks of the same row in successive epochs, seed {seed}",
        f"overlap {overlap:.0f}, by chance {expected:.0f}:"
        f" {deviation:+.2f} sigma; replay on 1 and 4 threads"
        f" {'identical' if all(replays) else 'DIFFERENT'}",
        "within 4 sigma; identical",
    )
    assert all(replays)
    assert abs(deviation) <= 4


def test_digests_of_all_layouts(record, create_prepared):
    # 180 rows: an epoch ends in the middle of every 23rd step.
    size, length, num_steps = 8, 64, 256
    prepared = create_prepared(train=180, length=length)
    config = _config(size=size, length=length)
    found = {}
    for hosts, replicas in itertools.product((1, 2, 4), (1, 2)):
        parts = [
            pretraining.training_batches(
                prepared,
                config,
                shard=stream.Shard(index, hosts),
                num_replicas=replicas,
            ).batch(replicas)
            for index in range(hosts)
        ]
        found[hosts, replicas] = [
            pretraining.digest(
                {
                    key: tf.concat(
                        [tf.concat([*one[key]], axis=0) for one in batches],
                        axis=0,
                    )
                    for key in pretraining.KEYS
                }
            )
            for batches in zip(
                *(part.take(num_steps) for part in parts), strict=True
            )
        ]
    digests = set(map(tuple, found.values()))
    record(
        f"digests of {num_steps} steps, hosts 1, 2, 4 x replicas 1, 2",
        "identical" if len(digests) == 1 else f"{len(digests)} kinds",
        "identical",
    )
    assert len(digests) == 1
    assert len(set(found[1, 1])) == num_steps
