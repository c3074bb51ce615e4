"""BERT as a KerasHub preset: a BertBackbone with its tokenizer."""

import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from configs import schema
from trainer.modeling import heads
from trainer.modeling.initial import Initial, Weights
from trainer.modeling.interchange import bert, huggingface

FORM = "KerasHub BERT preset"
# BertBackbone has these two built in.
_ACTIVATION = "gelu_tanh"
_EPSILON = 1e-12
_CLASSES = ("keras_hub>BertBackbone", "keras_nlp>BertBackbone")
# Ours -> theirs, by the beginning of the path or of the part in a layer.
_NAMES = {
    "embedding_norm/": "embeddings_layer_norm/",
    "type_embedding/": "segment_embedding/",
    "attention/": "self_attention_layer/",
    "attention_norm/": "self_attention_layer_norm/",
    "intermediate/": "feedforward_intermediate_dense/",
    "output_dense/": "feedforward_output_dense/",
    "feedforward_norm/": "feedforward_layer_norm/",
}


def why_not_keras_hub(model: schema.ModelConfig) -> str:
    """What keeps a model from being a BertBackbone; "" = nothing."""
    wrong = [bert.why_not_bert(model)] if bert.why_not_bert(model) else []
    if model.activation == "gelu":
        wrong.append(f"model.activation=gelu (BertBackbone: {_ACTIVATION})")
    if model.layer_norm_epsilon != _EPSILON:
        wrong.append(
            f"model.layer_norm_epsilon={model.layer_norm_epsilon}"
            f" (BertBackbone: {_EPSILON})"
        )
    return ", ".join(wrong)


def write_keras_hub(
    directory: pathlib.Path, model: heads.MaskedLM, vocabulary: Sequence[str]
) -> None:
    """Writes the encoder so that `Backbone.from_preset` loads it.

    The masked-LM head stays behind: KerasHub's has another activation and
    epsilon than its encoder. The pooler, which Cloze does not train, is new.

    Args:
      directory: made where it is missing.
      model: its encoder is written as float32.
      vocabulary: word pieces by id.

    Raises:
      ValueError: KerasHub cannot hold such a model or vocabulary.
    """
    import keras_hub

    shape, encoder = model.encoder.model_config, model.encoder
    bert.require(why_not_keras_hub(shape), FORM)
    bert.check_vocabulary(
        vocabulary,
        size=encoder.vocabulary_size,
        source="The vocabulary of the model",
    )
    backbone = _create(
        shape,
        vocabulary_size=encoder.vocabulary_size,
        sequence_length=encoder.sequence_length,
    )
    theirs = {variable.path: variable for variable in backbone.variables}
    for variable in encoder.variables:
        theirs[_name(variable.path)].assign(
            keras.ops.convert_to_numpy(variable)
        )
    pooler = backbone.pooled_dense.kernel
    draw = np.random.default_rng(0).normal(0, 0.02, pooler.shape)
    pooler.assign(draw.astype(np.float32))
    backbone.save_to_preset(str(directory))
    keras_hub.tokenizers.BertTokenizer(
        list(vocabulary), lowercase=True, strip_accents=True
    ).save_to_preset(str(directory))


def read_keras_hub(directory: pathlib.Path) -> Initial:
    """The encoder of a BERT preset; nothing of the folder is run.

    Raises:
      ValueError: another architecture, a file that is missing or damaged, or
        a vocabulary that keeps upper case.
    """
    content = huggingface.read_json(directory / "config.json")
    found = content.get("registered_name") or content.get("class_name")
    if found not in _CLASSES:
        raise ValueError(
            f"{directory} is a preset of another architecture, {found!r};"
            " only BertBackbone can be read."
        )
    try:
        fields = content["config"]
        shape = schema.ModelConfig(
            num_layers=int(fields["num_layers"]),
            hidden_size=int(fields["hidden_dim"]),
            num_heads=int(fields["num_heads"]),
            intermediate_size=int(fields["intermediate_dim"]),
            activation=_ACTIVATION,
            dropout=float(fields.get("dropout", 0.1)),
            attention_dropout=float(fields.get("dropout", 0.1)),
            layer_norm_epsilon=_EPSILON,
            **bert.SHAPE,
        )
        size = int(fields["vocabulary_size"])
        length = int(fields["max_sequence_length"])
        num_types = int(fields.get("num_segments", bert.NUM_TYPES))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{directory}/config.json is none of a BertBackbone: {error!r}."
        ) from error
    if num_types != bert.NUM_TYPES:
        raise ValueError(
            f"{directory} holds a BERT with num_segments={num_types}; only"
            f" {bert.NUM_TYPES} can be read."
        )
    vocabulary = _read_vocabulary(directory)
    bert.check_vocabulary(
        vocabulary, size=size, source=f"The vocabulary in {directory}"
    )
    return Initial(
        path=str(directory),
        form=FORM,
        kind="wordpiece",
        vocabulary=vocabulary,
        model_config=shape,
        sequence_length=length,
        read_weights=lambda: _read_weights(
            directory, shape, vocabulary_size=size, sequence_length=length
        ),
    )


def _read_vocabulary(directory: pathlib.Path) -> list[str]:
    settings = huggingface.read_json(directory / "tokenizer.json")
    if not settings.get("config", {}).get("lowercase", False):
        raise ValueError(
            f"The vocabulary in {directory} keeps upper case, but Cloze makes"
            " all text lower case; take the uncased model."
        )
    path = directory / "assets" / "tokenizer" / "vocabulary.txt"
    if not path.is_file():
        raise ValueError(f"{path} is missing.")
    # Not splitlines(): a piece may be a line break of Unicode.
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _read_weights(
    directory: pathlib.Path, shape: schema.ModelConfig, **sizes: int
) -> Weights:
    # Built from numbers: the classes that a preset names are not looked up.
    backbone = _create(shape, **sizes)
    sharded = directory / "model.weights.json"
    path = sharded if sharded.exists() else directory / "model.weights.h5"
    try:
        backbone.load_weights(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is missing, damaged or not of the model in config.json:"
            f" {str(error).splitlines()[0]}"
        ) from error
    arrays = {
        variable.path: keras.ops.convert_to_numpy(variable)
        for variable in backbone.trainable_variables
    }
    wanted = {
        path: arrays.pop(_name(path))
        for path in bert.shapes(
            shape,
            vocabulary_size=sizes["vocabulary_size"],
            sequence_length=sizes["sequence_length"],
        )
        if path.startswith("encoder/")
    }
    dropped = [*arrays]
    if (directory / "task.weights.h5").exists():
        dropped.append("task.weights.h5")
    return Weights(wanted, sorted(dropped))


def _create(
    shape: schema.ModelConfig, *, vocabulary_size: int, sequence_length: int
) -> Any:
    import keras_hub

    return keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        hidden_dim=shape.hidden_size,
        intermediate_dim=shape.intermediate_size,
        dropout=shape.dropout,
        max_sequence_length=sequence_length,
        num_segments=bert.NUM_TYPES,
        dtype="float32",
    )


def _name(path: str) -> str:
    """BertBackbone's path of a variable of our encoder."""
    path = path.removeprefix("encoder/")
    layer = ""
    if path.startswith("transformer_layer_"):
        layer, _, path = path.partition("/")
        layer += "/"
    for ours, theirs in _NAMES.items():
        if path.startswith(ours):
            return f"{layer}{theirs}{path.removeprefix(ours)}"
    return f"{layer}{path}"
