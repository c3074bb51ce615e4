"""Batch to logits: the encoder, its heads, and where dropout draws from."""

from trainer.modeling.classifier import (
    create_classifier,
    drop_words,
    probabilities,
)
from trainer.modeling.encoder import Encoder, features
from trainer.modeling.explanation import explain
from trainer.modeling.heads import MaskedLM, create_masked_lm
from trainer.modeling.initial import Initial
from trainer.modeling.layers import Noise, create_noise
from trainer.modeling.loading import initial_weights, load_encoder
from trainer.modeling.text import UNSURE, TextClassifier
from trainer.modeling.text_masked_lm import TextMaskedLM

__all__ = [
    "UNSURE",
    "Encoder",
    "Initial",
    "MaskedLM",
    "Noise",
    "TextClassifier",
    "TextMaskedLM",
    "create_classifier",
    "create_masked_lm",
    "create_noise",
    "drop_words",
    "explain",
    "features",
    "initial_weights",
    "load_encoder",
    "probabilities",
]
