"""Batch to logits: the encoder, its heads, and where dropout draws from."""

from trainer.modeling.classifier import (
    create_classifier,
    drop_words,
    probabilities,
)
from trainer.modeling.encoder import Encoder, features
from trainer.modeling.heads import MaskedLM, create_masked_lm
from trainer.modeling.initial import Initial, Weights
from trainer.modeling.layers import (
    Dropout,
    LayerFactory,
    Noise,
    create_noise,
)
from trainer.modeling.loading import initial_weights, load_encoder
from trainer.modeling.text import TextClassifier, TextMaskedLM

__all__ = [
    "Dropout",
    "Encoder",
    "Initial",
    "LayerFactory",
    "MaskedLM",
    "Noise",
    "TextClassifier",
    "TextMaskedLM",
    "Weights",
    "create_classifier",
    "create_masked_lm",
    "create_noise",
    "drop_words",
    "features",
    "initial_weights",
    "load_encoder",
    "probabilities",
]
