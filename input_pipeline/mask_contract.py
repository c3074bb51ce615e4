"""What holds of every masked batch, whatever the policy.

B rows, L slots, P predictions a row, V vocabulary.
"""

from collections.abc import Mapping

import numpy as np

_ENTRIES = ("mask_positions", "mask_labels", "mask_weights")


def check(
    originals: Mapping[str, np.ndarray],
    batch: Mapping[str, np.ndarray],
    *,
    is_special: np.ndarray,
    num_predictions: int,
    rate: float,
) -> np.ndarray:
    """The slots that are predicted, bool [B, L].

    Args:
      originals: `token_ids`, `segment_ids`, `position_ids` before masking.
      batch: the same rows as a masker gives them.
      is_special: bool [V]; ids that must not be predicted.
      num_predictions: P.
      rate: the share of ordinary tokens to predict.

    Raises:
      ValueError: names what does not hold.
    """
    ids = originals["token_ids"]
    shape = (len(ids), num_predictions)
    for name in _ENTRIES:
        _require(
            batch[name].shape == shape,
            f"{name} must have exactly P entries a row, {shape}, not"
            f" {batch[name].shape}",
        )
    positions, labels, weights = (batch[name] for name in _ENTRIES)
    used = weights > 0
    times = np.zeros(ids.shape, int)
    np.add.at(times, (np.nonzero(used)[0], positions[used]), 1)
    selected = times > 0
    right = np.take_along_axis(ids, positions, axis=1)
    ordinary = ~is_special[ids]
    _require(not (selected & ~ordinary).any(), "a special token is predicted")
    _require((labels == right)[used].all(), "a label is not the original id")
    _require(times.max(initial=0) <= 1, "a slot is predicted twice")
    _require(
        not (positions[~used].any() or labels[~used].any()),
        "an entry that is not used is not 0",
    )
    _require(np.isin(weights, (0, 1)).all(), "a weight is neither 0 nor 1")
    _require(
        (batch["token_ids"] == ids)[~selected].all(),
        "a slot that is not predicted was changed",
    )
    for name in ("segment_ids", "position_ids"):
        _require((batch[name] == originals[name]).all(), f"{name} were changed")
    _check_rate(selected, ordinary, rate=rate, num_predictions=num_predictions)
    return selected


def _check_rate(
    selected: np.ndarray,
    ordinary: np.ndarray,
    *,
    rate: float,
    num_predictions: int,
) -> None:
    """The number of predictions: the rate on average, but 1 to P a row."""
    tokens = ordinary.sum(axis=1)
    lowest = np.minimum(tokens, 1 if rate else 0)
    expected = np.clip(rate * tokens, lowest, num_predictions).sum()
    # A row's count is rounded by chance; words are predicted whole or not.
    slack = 0.1 * expected + 2 * len(tokens) ** 0.5
    _require(
        abs(selected.sum() - expected) <= slack,
        f"{selected.sum()} of {tokens.sum()} tokens are predicted, where the"
        f" rate {rate:g} makes {expected:.0f}",
    )


def _require(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise ValueError(f"the masks are wrong: {otherwise}.")
