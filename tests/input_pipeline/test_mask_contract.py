"""Every clause of the contract, broken by hand."""

import numpy as np
import pytest

from input_pipeline import mask_contract

# Ids 0 (padding), 1 and 9 (the mask) are special.
IS_SPECIAL = np.isin(np.arange(10), (0, 1, 9))


def rows():
    ids = np.tile(np.arange(2, 8, dtype=np.int32), [4, 2])
    ids[:, -1], ids[:, 0] = 0, 1
    segments = (ids > 0).astype(np.int32)
    return {"token_ids": ids, "segment_ids": segments, "position_ids": ids * 0}


def masked():
    """Slots 3 and 5 of every row are predicted; the third entry is unused."""
    batch = {key: value.copy() for key, value in rows().items()}
    batch["mask_positions"] = np.tile([3, 5, 0], [4, 1])
    batch["mask_labels"] = np.tile([5, 7, 0], [4, 1])
    batch["mask_weights"] = np.tile([1.0, 1.0, 0.0], [4, 1])
    batch["token_ids"][:, 3] = 9
    return batch


def check(batch, **changed):
    settings = {"num_predictions": 3, "rate": 0.2, **changed}
    return mask_contract.check(rows(), batch, is_special=IS_SPECIAL, **settings)


def test_the_slots_that_are_predicted():
    selected = check(masked())
    assert np.argwhere(selected)[:, 1].tolist() == [3, 5] * 4


@pytest.mark.parametrize(
    ("key", "place", "value", "message"),
    [
        ("mask_labels", (0, 0), 6, "a label is not the original id"),
        ("mask_positions", (0, 1), 0, "a special token is predicted"),
        ("mask_positions", (0, 1), 11, "a special token is predicted"),
        ("mask_positions", (1, 2), 4, "an entry that is not used is not 0"),
        ("mask_labels", (1, 2), 4, "an entry that is not used is not 0"),
        ("mask_weights", (2, 0), 0.5, "a weight is neither 0 nor 1"),
        ("token_ids", (3, 4), 2, "a slot that is not predicted was changed"),
        ("segment_ids", (3, 4), 2, "segment_ids were changed"),
        ("position_ids", (3, 4), 2, "position_ids were changed"),
    ],
)
def test_a_clause_that_does_not_hold_is_named(key, place, value, message):
    batch = masked()
    batch[key][place] = value
    with pytest.raises(ValueError, match=f"the masks are wrong: {message}"):
        check(batch)


def test_a_slot_counts_once():
    batch = masked()
    batch["mask_positions"][:, 1] = 3
    batch["mask_labels"][:, 1] = 5
    with pytest.raises(ValueError, match="a slot is predicted twice"):
        check(batch)


def test_the_entries_are_exactly_p():
    with pytest.raises(ValueError, match=r"exactly P entries a row, \(4, 4\)"):
        check(masked(), num_predictions=4)


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_a_rate_that_is_far_off(rate):
    batch = masked()
    tiled = {key: np.tile(value, [50, 1]) for key, value in batch.items()}
    originals = {key: np.tile(value, [50, 1]) for key, value in rows().items()}
    settings = {"is_special": IS_SPECIAL, "num_predictions": 3}
    mask_contract.check(originals, tiled, rate=0.2, **settings)
    with pytest.raises(ValueError, match="400 of 2000 tokens are predicted"):
        mask_contract.check(originals, tiled, rate=rate, **settings)
