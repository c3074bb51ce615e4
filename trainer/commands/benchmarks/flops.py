"""Useful floating-point operations: of real tokens and predicted slots alone.

Forward and backward (twice the forward) of the matrix products; padding, other
segments, unused entries and elementwise work count nothing. D width,
F intermediate size, V vocabulary.
"""

import numpy as np

from configs import schema

_FORWARD_AND_BACKWARD = 3


def masked_lm(
    model: schema.ModelConfig,
    *,
    vocabulary_size: int,
    segment_ids: np.ndarray,
    num_predicted: float,
) -> float:
    """Of one step whose rows have `segment_ids`, int32 [B, L]."""
    width = model.hidden_size
    return encoder(model, segment_ids) + head(
        num_predicted, vocabulary_size + width * model.head_transform, width
    )


def encoder(model: schema.ModelConfig, segment_ids: np.ndarray) -> float:
    """All layers, on rows that have `segment_ids`, int32 [B, L]."""
    num_tokens = int(np.count_nonzero(segment_ids))
    return model.num_layers * (
        projections(model, num_tokens=num_tokens)
        + feed_forward(model, num_tokens=num_tokens)
        + attention(model, segment_ids)
    )


def projections(model: schema.ModelConfig, *, num_tokens: int) -> float:
    """Query, key, value and output of one layer."""
    return _FORWARD_AND_BACKWARD * 2.0 * num_tokens * 4 * model.hidden_size**2


def feed_forward(model: schema.ModelConfig, *, num_tokens: int) -> float:
    """The two products of one layer."""
    weights = 2 * model.hidden_size * model.intermediate_size
    return _FORWARD_AND_BACKWARD * 2.0 * num_tokens * weights


def attention(model: schema.ModelConfig, segment_ids: np.ndarray) -> float:
    """Scores and mixing of one layer: each token with those of its segment."""
    pairs = sum(
        int(np.square(np.bincount(row)[1:]).sum()) for row in segment_ids
    )
    return _FORWARD_AND_BACKWARD * 2 * 2.0 * pairs * model.hidden_size


def head(num_predicted: float, vocabulary_size: int, width: int) -> float:
    """The logits of so many slots."""
    return _FORWARD_AND_BACKWARD * 2.0 * num_predicted * width * vocabulary_size
