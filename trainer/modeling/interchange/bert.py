"""The sizes and variables of BERT by our names and those of other libraries.

D width, F intermediate size, H heads, K = D / H, L slots, V vocabulary.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from configs import schema
from input_pipeline import strings
from trainer.modeling import encoder as encoders
from trainer.modeling.initial import Initial, Weights

NUM_TYPES = 2
# These values and one of two activations make a model BERT.
SHAPE: dict[str, Any] = {
    "normalization": "post",
    "embedding_norm": True,
    "token_types": True,
    "tie_embeddings": True,
    "head_transform": True,
    "attend_padding": False,
    "positions": "learned",
}
ACTIVATIONS = ("gelu", "gelu_tanh")


_LEAVES = {  # Ours -> those of Hugging Face.
    "embeddings": "weight",
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
}


class Size(NamedTuple):
    """A size, and what it is called in the config.json of each library."""

    ours: str
    huggingface: str
    keras_hub: str


SIZES = (
    Size("num_layers", "num_hidden_layers", "num_layers"),
    Size("hidden_size", "hidden_size", "hidden_dim"),
    Size("num_heads", "num_attention_heads", "num_heads"),
    Size("intermediate_size", "intermediate_size", "intermediate_dim"),
    Size("vocabulary_size", "vocab_size", "vocabulary_size"),
    Size("sequence_length", "max_position_embeddings", "max_sequence_length"),
)


class Variable(NamedTuple):
    """A variable of BERT, and what it is called in each library.

    Attributes:
      path: ours.
      shape: ours and KerasHub's.
      huggingface: the name in Hugging Face's files, without `bert.`.
      huggingface_shape: the shape there; kernels are matrices [out, in].
      keras_hub: the path in a BertBackbone; "" if it has no such variable.
    """

    path: str
    shape: tuple[int, ...]
    huggingface: str
    huggingface_shape: tuple[int, ...]
    keras_hub: str

    def to_huggingface(self, array: np.ndarray) -> np.ndarray:
        """The float32 array that Hugging Face stores."""
        if self.path.endswith("/kernel"):
            array = array.reshape(self.huggingface_shape[::-1]).T
        array = array.reshape(self.huggingface_shape)
        return np.ascontiguousarray(array, np.float32)

    def from_huggingface(self, array: np.ndarray) -> np.ndarray:
        """Our float32 array; the inverse of `to_huggingface`."""
        array = array.T if self.path.endswith("/kernel") else array
        return np.ascontiguousarray(array.reshape(self.shape), np.float32)


def variables(sizes: Mapping[str, int]) -> list[Variable]:
    """All variables of a BERT-shaped `MaskedLM` with these `SIZES` of ours."""
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    heads = (sizes["num_heads"], width // sizes["num_heads"])

    # Leaf of our path -> our shape, and that of Hugging Face.
    def table(rows: int) -> dict[str, Any]:
        return {"embeddings": ((rows, width), (rows, width))}

    def dense(inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        rows, columns = math.prod(outputs), math.prod(inputs)
        return {
            "kernel": ((*inputs, *outputs), (rows, columns)),
            "bias": (tuple(outputs), (rows,)),
        }

    norm = {leaf: ((width,), (width,)) for leaf in ("gamma", "beta")}
    split, joined = dense([width], heads), dense(heads, [width])
    size = (sizes["vocabulary_size"],)
    # fmt: off
    rows = [
        ("encoder/token_embedding", "embeddings.word_embeddings",
         "token_embedding", table(*size)),
        ("encoder/position_embedding", "embeddings.position_embeddings",
         "position_embedding", table(sizes["sequence_length"])),
        ("encoder/type_embedding", "embeddings.token_type_embeddings",
         "segment_embedding", table(NUM_TYPES)),
        ("encoder/embedding_norm", "embeddings.LayerNorm",
         "embeddings_layer_norm", norm),
        ("masked_lm_head/transform_dense", "cls.predictions.transform.dense",
         "", dense([width], [width])),
        ("masked_lm_head/transform_norm", "cls.predictions.transform.LayerNorm",
         "", norm),
        ("masked_lm_head", "cls.predictions", "", {"bias": (size, size)}),
    ]
    for n in range(sizes["num_layers"]):
        rows += [
            (f"encoder/transformer_layer_{n}/{ours}",
             f"encoder.layer.{n}.{huggingface}",
             f"transformer_layer_{n}/{keras_hub}", leaves)
            for ours, huggingface, keras_hub, leaves in (
                ("attention/query", "attention.self.query",
                 "self_attention_layer/query", split),
                ("attention/key", "attention.self.key",
                 "self_attention_layer/key", split),
                ("attention/value", "attention.self.value",
                 "self_attention_layer/value", split),
                ("attention/attention_output", "attention.output.dense",
                 "self_attention_layer/attention_output", joined),
                ("attention_norm", "attention.output.LayerNorm",
                 "self_attention_layer_norm", norm),
                ("intermediate", "intermediate.dense",
                 "feedforward_intermediate_dense", dense([width], [inner])),
                ("output_dense", "output.dense",
                 "feedforward_output_dense", dense([inner], [width])),
                ("feedforward_norm", "output.LayerNorm",
                 "feedforward_layer_norm", norm),
            )
        ]
    # fmt: on
    return [
        Variable(
            f"{ours}/{leaf}",
            shape,
            f"{huggingface}.{_LEAVES[leaf]}",
            huggingface_shape,
            keras_hub and f"{keras_hub}/{leaf}",
        )
        for ours, huggingface, keras_hub, leaves in rows
        for leaf, (shape, huggingface_shape) in leaves.items()
    ]


def why_not_bert(model: schema.ModelConfig) -> str:
    """Names the fields that keep a model from being BERT; "" if it is BERT."""
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


def sizes_of(encoder: encoders.Encoder) -> dict[str, int]:
    """The `SIZES` of an encoder of ours."""
    fields = dataclasses.asdict(encoder.model_config) | {
        "vocabulary_size": encoder.vocabulary_size,
        "sequence_length": encoder.sequence_length,
    }
    return {size.ours: fields[size.ours] for size in SIZES}


def initial(
    directory: pathlib.Path,
    *,
    form: str,
    sizes: Mapping[str, int],
    lowercase: bool,
    vocabulary: Sequence[str],
    read_weights: Callable[[], Weights],
    **fields: Any,
) -> Initial:
    """A BERT on disk, with [PAD] as id 0, because rows are padded with zeros.

    If [PAD] has another id, it changes places with the token of id 0.

    Args:
      directory: its folder.
      form: what the folder is, for messages.
      sizes: all `SIZES`, by our names.
      lowercase: whether case and accents are dropped.
      vocabulary: the tokens by id.
      read_weights: see `Initial`.
      fields: the other fields of `ModelConfig`.

    Raises:
      ValueError: the vocabulary is not one of BERT, or has another size.
    """
    source = f"The vocabulary in {directory}"
    missing = [t for t in strings.PIECES_SPECIAL if t not in vocabulary]
    if missing:
        raise ValueError(
            f"{source} is no WordPiece vocabulary of BERT: it lacks"
            f" {', '.join(missing)}."
        )
    if len(set(vocabulary)) < len(vocabulary):
        raise ValueError(f"{source} holds a token twice.")
    size = sizes["vocabulary_size"]
    if len(vocabulary) != size:
        raise ValueError(
            f"{source} holds {len(vocabulary)} tokens, but the model's"
            f" token embedding has {size} rows; they must be as many."
        )
    of_model = {field.name for field in dataclasses.fields(schema.ModelConfig)}
    fields |= {name: n for name, n in sizes.items() if name in of_model}
    place = vocabulary.index("[PAD]")
    order = list(range(len(vocabulary)))
    order[0], order[place] = place, 0

    def read_in_order() -> Weights:
        arrays, dropped = read_weights()
        by_token = ("encoder/token_embedding/embeddings", "masked_lm_head/bias")
        moved = {k: v[order] for k, v in arrays.items() if k in by_token}
        return Weights(arrays | moved, dropped)

    return Initial(
        path=str(directory),
        form=form,
        kind="wordpiece",
        lowercase=lowercase,
        vocabulary=[vocabulary[i] for i in order],
        model_config=schema.ModelConfig(**SHAPE, **fields),
        sequence_length=sizes["sequence_length"],
        read_weights=read_in_order if place else read_weights,
    )
