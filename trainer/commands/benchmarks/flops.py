"""Useful floating-point operations: those of real tokens and predicted slots.

Only matrix products count, forward and backward (twice the forward). Padding,
other segments, unused entries and elementwise work count nothing. B rows,
L slots, P predictions, D width, F intermediate size, V vocabulary.
"""

import numpy as np

from configs import schema

# A multiplication and an addition, in the forward pass and twice backward.
_PER_WEIGHT = 2.0 * 3


def masked_lm(
    model: schema.ModelConfig,
    *,
    vocabulary_size: int,
    segment_ids: np.ndarray,
    num_predicted: float,
) -> float:
    """FLOPs of a pretraining step on rows with int32 [B, L] `segment_ids`."""
    width = model.hidden_size
    head = width * vocabulary_size + width**2 * model.head_transform
    return encoder(model, segment_ids) + _PER_WEIGHT * num_predicted * head


def encoder(model: schema.ModelConfig, segment_ids: np.ndarray) -> float:
    """FLOPs of all layers on rows with int32 [B, L] `segment_ids`."""
    width = model.hidden_size
    # Query, key, value and output [D, D], then [D, F] and [F, D].
    weights = 4 * width**2 + 2 * width * model.intermediate_size
    # Scores and mixing: each token with the tokens of its own segment.
    pairs = sum(
        int(np.square(np.bincount(row)[1:]).sum()) for row in segment_ids
    )
    layer = int(np.count_nonzero(segment_ids)) * weights + 2 * pairs * width
    return model.num_layers * _PER_WEIGHT * layer
