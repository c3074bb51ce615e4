import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from input_pipeline import mask_contract, masking, packing, tokenizer

POLICIES = ("token", "whole_word", "span")
# 0 padding, 1 unknown, 2 the most frequent word, ..., last the mask.
V = 60
SPECIAL = tokenizer.SpecialIds(padding=0, unknown=1, mask=V - 1)
SPECIAL_PIECES = tokenizer.SpecialIds(
    padding=0, unknown=1, mask=4, start=2, end=3
)


def _masker(*, special=SPECIAL, num_predictions=10, **settings):
    is_special = np.zeros(V, bool)
    is_special[special.ids()] = True
    is_continuation = np.zeros(V, bool)
    if special.start >= 0:
        is_continuation[30:] = True
    return masking.Masker(
        config=schema.MaskingConfig(**settings),
        special=special,
        is_special=is_special,
        is_continuation=is_continuation,
        num_predictions=num_predictions,
    )


def _rows(num_rows, length=32, *, special=SPECIAL, seed=0, longest=20):
    """Packed random documents with unknown words; the last rows are short."""
    generator = np.random.default_rng(seed)
    ordinary = np.setdiff1d(np.arange(V), special.ids())
    documents = []
    for _ in range(5 * num_rows):
        ids = generator.choice(ordinary, generator.integers(1, longest))
        ids[generator.random(len(ids)) < 0.1] = special.unknown
        documents.append(ids)
    wrapped = special.start >= 0
    slots, _ = packing.pack(
        documents,
        policy="fill",
        length=length,
        wrap=lambda ids: (
            np.concatenate([[special.start], ids, [special.end]])
            if wrapped
            else ids
        ),
        num_wrapping=2 * wrapped,
        dtype=np.dtype("<u2"),
    )
    assert len(slots) >= num_rows
    # From the end, where the shortest rows are.
    return packing.unpack(tf.constant(slots[-num_rows:]))


def _full_rows(num_rows, length, *, num_ordinary=None):
    """Rows of one segment with ordinary words alone, then padding."""
    ids = np.zeros([num_rows, length], np.int32)
    num_ordinary = length if num_ordinary is None else num_ordinary
    ids[:, :num_ordinary] = 2 + np.arange(num_ordinary) % (V - 3)
    is_text = (ids > 0).astype(np.int32)
    return {
        "token_ids": tf.constant(ids),
        "segment_ids": tf.constant(is_text),
        "position_ids": tf.constant(np.arange(length, dtype="i4") * is_text),
    }


def _mask(masker, rows, *, seed=1, first_position=0, rate=0.3):
    batch = masker(
        rows,
        seed=seed,
        first_position=tf.constant(first_position, tf.int64),
        rate=rate,
    )
    return {key: value.numpy() for key, value in batch.items()}


def _selected(batch):
    """bool [B, L]: slots to predict; no slot may be named twice."""
    counts = np.zeros(batch["token_ids"].shape, int)
    for row, positions, weights in zip(
        counts, batch["mask_positions"], batch["mask_weights"], strict=True
    ):
        np.add.at(row, positions[weights > 0], 1)
    assert counts.max(initial=0) <= 1
    return counts == 1


def _assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize("special", [SPECIAL, SPECIAL_PIECES])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rate", [0.15, 1.0])
def test_the_contract_of_a_batch(policy, special, rate):
    rows = _rows(40, special=special)
    masker = _masker(policy=policy, special=special, num_predictions=13)
    batch = _mask(masker, rows, rate=rate)
    selected = mask_contract.check(
        {key: value.numpy() for key, value in rows.items()},
        batch,
        is_special=masker.is_special,
        num_predictions=13,
        rate=rate,
    )
    assert selected.any()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_may_be_split_anywhere_and_over_threads(policy):
    rows = _rows(12)
    masker = _masker(policy=policy)
    whole = _mask(masker, rows, first_position=10**12)
    for size in (1, 3, 4):

        def mask(start, size=size):
            part = {
                key: value[start : start + size] for key, value in rows.items()
            }
            return masker(part, seed=1, first_position=start + 10**12, rate=0.3)

        dataset = tf.data.Dataset.range(0, 12, size).map(
            mask, num_parallel_calls=4
        )
        parts = list(dataset.as_numpy_iterator())
        _assert_equal(
            {
                key: np.concatenate([part[key] for part in parts])
                for key in whole
            },
            whole,
        )


@pytest.mark.parametrize("policy", POLICIES)
def test_other_positions_and_seeds_give_other_masks(policy):
    rows = _rows(6)
    masker = _masker(policy=policy)
    one = _mask(masker, rows, first_position=60)
    _assert_equal(one, _mask(masker, rows, first_position=60))
    for changed in ({"first_position": 66}, {"seed": 2}):
        other = _mask(masker, rows, **{"first_position": 60, **changed})
        same = (_selected(one) == _selected(other)).all(axis=1)
        assert not same.all()
    # Beyond 32 bits nothing is cut off.
    far = _mask(masker, rows, first_position=60 + 2**32)
    assert (_selected(one) != _selected(far)).any()


def test_neighbours_do_not_share_draws():
    masker = _masker(num_predictions=32)
    rows = _full_rows(2_000, 32)
    selected = _selected(_mask(masker, rows, rate=0.5)).astype(float)
    # The same slot of neighbouring rows, neighbouring slots of a row.
    for a, b in (
        (selected[:-1], selected[1:]),
        (selected[:-1, 1:], selected[1:, :-1]),
        (selected[:, :-1], selected[:, 1:]),
    ):
        overlap = (a * b).mean()
        assert abs(overlap - 0.25) < 0.015


def test_rates_of_replacement_zero_and_one():
    rows = _full_rows(50, 32)
    original = rows["token_ids"].numpy()
    for mask_rate, random_rate in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        masker = _masker(mask_rate=mask_rate, random_rate=random_rate)
        batch = _mask(masker, rows)
        shown = batch["token_ids"][_selected(batch)]
        if mask_rate:
            assert (shown == SPECIAL.mask).all()
        elif random_rate:
            assert not np.isin(shown, SPECIAL.ids()).any()
            assert (shown != original[_selected(batch)]).any()
        else:
            np.testing.assert_array_equal(batch["token_ids"], original)
            assert batch["mask_weights"].sum() > 400


def test_select_rate_zero_and_one():
    rows = _rows(30)
    ordinary = ~np.isin(rows["token_ids"], SPECIAL.ids())
    for policy in POLICIES:
        masker = _masker(policy=policy, num_predictions=32)
        nothing = _mask(masker, rows, rate=0.0)
        np.testing.assert_array_equal(nothing["token_ids"], rows["token_ids"])
        assert not nothing["mask_weights"].any()
        everything = _mask(masker, rows, rate=1.0)
        np.testing.assert_array_equal(_selected(everything), ordinary)


@pytest.mark.parametrize("num_ordinary", [0, 1, 2])
@pytest.mark.parametrize("policy", POLICIES)
def test_rows_with_hardly_any_text(policy, num_ordinary):
    rows = _full_rows(100, 16, num_ordinary=num_ordinary)
    masker = _masker(policy=policy, num_predictions=3)
    counts = _selected(_mask(masker, rows, rate=0.15)).sum(axis=1)
    # One at least: no row with text is there for nothing.
    assert (counts == min(num_ordinary, 1)).all()


@pytest.mark.parametrize("num_ordinary", [7, 20, 39, 40, 64])
@pytest.mark.parametrize("policy", POLICIES)
def test_counts_are_the_rate_on_average(policy, num_ordinary):
    # 0.15 of 20 and of 40 are whole numbers: no chance is left.
    num_rows = 3_000
    rows = _full_rows(num_rows, 64, num_ordinary=num_ordinary)
    masker = _masker(policy=policy, num_predictions=10)
    counts = _selected(_mask(masker, rows, rate=0.15)).sum(axis=1)
    expected = 0.15 * num_ordinary
    assert set(counts) <= {int(expected + 1e-6), int(np.ceil(expected - 1e-6))}
    share = expected % 1
    sigma = (share * (1 - share) / num_rows) ** 0.5
    assert abs(counts.mean() - expected) <= 4 * sigma + 1e-6


@pytest.mark.parametrize("policy", POLICIES)
def test_eighty_ten_ten(policy):
    rows = _full_rows(6_000, 64)
    masker = _masker(policy=policy, num_predictions=10)
    batch = _mask(masker, rows, rate=0.15)
    selected = _selected(batch)
    shown = batch["token_ids"][selected]
    original = rows["token_ids"].numpy()[selected]
    is_mask = shown == SPECIAL.mask
    # A random id is by chance the original one.
    hit = 0.1 / (V - 3)
    for share, rate in (
        (is_mask.mean(), 0.8),
        ((shown == original).mean(), 0.1 + hit),
        ((~is_mask & (shown != original)).mean(), 0.1 - hit),
    ):
        sigma = (rate * (1 - rate) / len(shown)) ** 0.5
        assert abs(share - rate) < 4 * sigma
    # Random ids: every ordinary one, evenly.
    random = shown[~is_mask & (shown != original)]
    drawn = np.bincount(random, minlength=V)
    assert not drawn[SPECIAL.ids()].any()
    drawn = np.delete(drawn, SPECIAL.ids())
    expected = len(random) / (V - 3)
    assert ((drawn - expected) ** 2 / expected).sum() < 2 * (V - 3)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_slot_and_every_ordinary_id_is_selected_alike(policy):
    num_rows, length = 6_000, 57  # Every ordinary id once a row.
    rows = _full_rows(num_rows, length)
    selected = _selected(_mask(_masker(policy=policy), rows, rate=0.15))
    # At slot 0 stands id 2, the most frequent word.
    share = selected.mean(axis=0)
    sigma = (0.15 * 0.85 / num_rows) ** 0.5
    if policy == "span":
        # No span comes from before the start: its first slots have fewer.
        assert share.min() > 0.03
        share = share[10:]
        assert share.max() - share.min() < 12 * sigma
    else:
        assert abs(share - 0.15).max() < 5 * sigma


def _word_numbers(rows, special):
    """Numbers the words, slot by slot; -1 where nothing may be selected."""
    ids = rows["token_ids"].numpy()
    numbers = np.full(ids.shape, -1)
    number = 0
    for row, segments, places in zip(
        ids, rows["segment_ids"].numpy(), numbers, strict=True
    ):
        for slot, piece in enumerate(row):
            if piece in special.ids():
                continue
            is_new = (
                piece < 30
                or slot == 0
                or row[slot - 1] in special.ids()
                or segments[slot] != segments[slot - 1]
            )
            number += is_new
            places[slot] = number
    return numbers


def test_whole_words_or_nothing():
    rows = _rows(300, special=SPECIAL_PIECES, longest=28)
    words = _word_numbers(rows, SPECIAL_PIECES)
    sizes = np.bincount(words[words >= 0])
    assert sizes.max() >= 4
    masker = _masker(policy="whole_word", special=SPECIAL_PIECES)
    batch = _mask(masker, rows, rate=0.3)
    selected = _selected(batch)
    hit = np.bincount(words[selected], minlength=len(sizes))
    assert ((hit == 0) | (hit == sizes)).all()
    # Of every size some word is selected, one that follows [CLS] too.
    assert set(sizes[hit > 0]) >= {1, 2, 3}
    ids = rows["token_ids"].numpy()
    rest = (ids[:, 1:] >= 30) & (ids[:, :-1] == SPECIAL_PIECES.start)
    assert selected[:, 1:][rest].any()


def _words_of_sizes(num_rows, length, sizes, seed=0):
    """Full rows of one segment, cut from words of these sizes by chance."""
    generator = np.random.default_rng(seed)
    rows = _full_rows(num_rows, length)
    ids = np.zeros([num_rows, length], np.int32)
    for row in ids:
        words = [[7, *[35] * (n - 1)] for n in generator.choice(sizes, length)]
        row[:] = np.concatenate(words)[:length]
    return {**rows, "token_ids": tf.constant(ids)}


@pytest.mark.parametrize(("length", "rate"), [(32, 0.15), (64, 0.1)])
def test_words_of_every_length_are_selected_alike(length, rate):
    rows = _words_of_sizes(5_000, length, [1, 1, 1, 1, 2, 2, 3, 4, 5])
    number = schema.Config(
        data=schema.DataConfig(sequence_length=length),
        masking=schema.MaskingConfig(
            policy="whole_word", select_rate=rate, evaluation_rate=0.0
        ),
    ).num_predictions
    masker = _masker(
        policy="whole_word", special=SPECIAL_PIECES, num_predictions=number
    )
    selected = _selected(_mask(masker, rows, rate=rate))
    words = _word_numbers(rows, SPECIAL_PIECES).ravel()
    words -= words.min()
    sizes = np.bincount(words)
    hit = np.bincount(words[selected.ravel()], minlength=len(sizes))
    assert ((hit == 0) | (hit == sizes)).all()
    for size in range(1, 6):
        share = (hit[sizes == size] > 0).mean()
        assert share == pytest.approx(rate, rel=0.1), size
    assert selected.mean() == pytest.approx(rate, rel=0.02)


def test_a_word_longer_than_the_count_stays():
    rows = _full_rows(50, 16)
    ids = np.array([7, *[35] * 15], np.int32)  # One piece, then fifteen... of
    rows["token_ids"] = tf.constant(np.tile(ids, [50, 1]))  # the same word.
    masker = _masker(policy="whole_word", special=SPECIAL_PIECES)
    assert not _mask(masker, rows, rate=0.3)["mask_weights"].any()


def _reference_span_scores(first, second, segment_ids, ordinary):
    lengths = 1 + (np.log1p(-second) / np.log(np.float32(0.8))).astype(int)
    best = np.full(first.shape, -1, np.int32)
    for row, start in np.argwhere(ordinary):
        for slot in range(start, start + min(lengths[row, start], 10)):
            if (
                slot == first.shape[1]
                or not ordinary[row, slot]
                or segment_ids[row, slot] != segment_ids[row, start]
            ):
                break
            best[row, slot] = max(best[row, slot], first[row, start])
    return best


@pytest.mark.parametrize("length", [1, 9, 10, 11, 40])
def test_spans_are_contiguous_and_stay_inside_their_segment(length):
    generator = np.random.default_rng(length)
    shape = [30, length]
    first = generator.integers(0, 2**31, shape).astype(np.int32)
    second = generator.random(shape, np.float32)
    second[:5] = 0.9999  # As long as may be,
    second[5:10] = 0.0  # or one slot.
    segment_ids = np.cumsum(generator.random(shape) < 0.1, axis=1)
    ordinary = generator.random(shape) < 0.9
    scores = masking._span_scores(
        tf.constant(first),
        tf.constant(second),
        segment_ids=tf.constant(segment_ids),
        ordinary=tf.constant(ordinary),
    ).numpy()
    scores[~ordinary] = -1
    np.testing.assert_array_equal(
        scores, _reference_span_scores(first, second, segment_ids, ordinary)
    )


def test_golden_masks():
    # Pinned: a run that another version resumes must see the same masks.
    rows = _full_rows(2, 12)
    batch = _mask(_masker(num_predictions=4), rows, seed=3, first_position=70)
    assert batch["mask_positions"].tolist() == [[11, 10, 1, 4], [8, 11, 1, 0]]
    assert batch["token_ids"].tolist() == [
        [2, 59, 4, 5, 40, 7, 8, 9, 10, 11, 59, 59],
        [2, 59, 4, 5, 6, 7, 8, 9, 59, 11, 12, 59],
    ]
