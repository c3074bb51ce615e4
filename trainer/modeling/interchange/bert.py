"""Which of our models are BERT, and which variables such a model has."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from configs import schema
from input_pipeline import strings
from trainer.modeling.initial import Initial, Weights

NUM_TYPES = 2
# What makes a model BERT; besides it has one of two activations.
SHAPE: dict[str, Any] = {
    "normalization": "post",
    "embedding_norm": True,
    "token_types": True,
    "tie_embeddings": True,
    "head_transform": True,
    "attend_padding": False,
    "positions": "learned",
}
# Variables with a row for every token.
_BY_TOKEN = ("encoder/token_embedding/embeddings", "masked_lm_head/bias")
ACTIVATIONS = ("gelu", "gelu_tanh")


def why_not_bert(model: schema.ModelConfig) -> str:
    """The fields that keep a model from being BERT; "" = it is."""
    wrong = [
        f"model.{name}={getattr(model, name)} (BERT: {value})"
        for name, value in SHAPE.items()
        if getattr(model, name) != value
    ]
    if model.activation not in ACTIVATIONS:
        wrong.append(
            f"model.activation={model.activation}"
            f" (BERT: {' or '.join(ACTIVATIONS)})"
        )
    return ", ".join(wrong)


def require(why_not: str, target: str) -> None:
    """Raises ValueError if there is a reason not to write a model so."""
    if why_not:
        raise ValueError(f"The model cannot become {target}: {why_not}.")


def shapes(
    model: schema.ModelConfig, *, vocabulary_size: int, sequence_length: int
) -> dict[str, tuple[int, ...]]:
    """The shape of every variable of a BERT-shaped `MaskedLM`, by path."""
    width, inner = model.hidden_size, model.intermediate_size
    heads = (model.num_heads, width // model.num_heads)
    result = {
        "encoder/token_embedding/embeddings": (vocabulary_size, width),
        "encoder/position_embedding/embeddings": (sequence_length, width),
        "encoder/type_embedding/embeddings": (NUM_TYPES, width),
        **_norm("encoder/embedding_norm", width),
    }
    for number in range(model.num_layers):
        layer = f"encoder/transformer_layer_{number}"
        for name in ("query", "key", "value"):
            dense = f"{layer}/attention/{name}"
            result[f"{dense}/kernel"] = (width, *heads)
            result[f"{dense}/bias"] = heads
        output = f"{layer}/attention/attention_output"
        result |= {
            f"{output}/kernel": (*heads, width),
            f"{output}/bias": (width,),
            **_norm(f"{layer}/attention_norm", width),
            f"{layer}/intermediate/kernel": (width, inner),
            f"{layer}/intermediate/bias": (inner,),
            f"{layer}/output_dense/kernel": (inner, width),
            f"{layer}/output_dense/bias": (width,),
            **_norm(f"{layer}/feedforward_norm", width),
        }
    return result | {
        "masked_lm_head/transform_dense/kernel": (width, width),
        "masked_lm_head/transform_dense/bias": (width,),
        **_norm("masked_lm_head/transform_norm", width),
        "masked_lm_head/bias": (vocabulary_size,),
    }


def _norm(path: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/gamma": (width,), f"{path}/beta": (width,)}


def check_vocabulary(
    vocabulary: Sequence[str], *, size: int, source: str
) -> None:
    """Refuses what our WordPiece tokenizer cannot use.

    Args:
      vocabulary: the tokens by id.
      size: the rows of the token embedding.
      source: where the vocabulary comes from, for messages.

    Raises:
      ValueError: says what is wrong with it.
    """
    special = strings.PIECES_SPECIAL
    missing = [token for token in special if token not in vocabulary]
    if missing:
        raise ValueError(
            f"{source} is no WordPiece vocabulary of BERT: it lacks"
            f" {', '.join(missing)}."
        )
    if len(set(vocabulary)) < len(vocabulary):
        raise ValueError(f"{source} holds a token twice.")
    if len(vocabulary) != size:
        raise ValueError(
            f"{source} holds {len(vocabulary)} tokens, but the model's"
            f" token embedding has {size} rows; they must be as many."
        )


def with_padding_first(initial: Initial) -> Initial:
    """The same model, in which [PAD] has id 0: a row is padded with zeros.

    Where it has another, it changes places with the token of id 0.
    """
    place = initial.vocabulary.index("[PAD]")
    if not place:
        return initial
    order = list(range(len(initial.vocabulary)))
    order[0], order[place] = place, 0

    def read_weights() -> Weights:
        arrays, dropped = initial.read_weights()
        by_token = {k: v[order] for k, v in arrays.items() if k in _BY_TOKEN}
        return Weights(arrays | by_token, dropped)

    return dataclasses.replace(
        initial,
        vocabulary=[initial.vocabulary[i] for i in order],
        read_weights=read_weights,
    )
