"""BERT as a KerasHub preset: a BertBackbone with its tokenizer."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from configs import schema
from trainer.modeling import heads
from trainer.modeling.initial import Initial, Weights, read_json
from trainer.modeling.interchange import bert

FORM = "KerasHub BERT preset"
# BertBackbone has these two built in.
_ACTIVATION = "gelu_tanh"
_EPSILON = 1e-12
_CLASSES = ("keras_hub>BertBackbone", "keras_nlp>BertBackbone")


def why_not_keras_hub(model: schema.ModelConfig) -> str:
    """Names what keeps a model from being a BertBackbone, if anything."""
    wrong = [bert.why_not_bert(model)]
    if model.activation == "gelu":
        wrong.append(f"model.activation=gelu (BertBackbone: {_ACTIVATION})")
    if model.layer_norm_epsilon != _EPSILON:
        wrong.append(
            f"model.layer_norm_epsilon={model.layer_norm_epsilon}"
            f" (BertBackbone: {_EPSILON})"
        )
    return ", ".join(filter(None, wrong))


def write_keras_hub(
    directory: pathlib.Path,
    model: heads.MaskedLM,
    vocabulary: Sequence[str],
    *,
    lowercase: bool = True,
) -> None:
    """Writes the encoder so that `Backbone.from_preset` loads it.

    The masked-LM head is left out, because KerasHub's has another activation
    and epsilon than its encoder. The pooler, which Cloze does not train, gets
    random weights.

    Args:
      directory: created if it is missing.
      model: its encoder is written as float32.
      vocabulary: word pieces by id.
      lowercase: whether case and accents are dropped.
    """
    import keras_hub

    encoder = model.encoder
    assert not why_not_keras_hub(encoder.model_config)
    sizes = bert.sizes_of(encoder)
    backbone = _create(sizes, dropout=encoder.model_config.dropout)
    theirs = {v.path: v for v in backbone.variables}
    ours = {v.path: v for v in encoder.variables}
    for variable in bert.variables(sizes):
        if variable.keras_hub:
            array = keras.ops.convert_to_numpy(ours[variable.path])
            theirs[variable.keras_hub].assign(array)
    pooler = backbone.pooled_dense.kernel
    draw = np.random.default_rng(0).normal(0, 0.02, pooler.shape)
    pooler.assign(draw.astype(np.float32))
    backbone.save_to_preset(str(directory))
    keras_hub.tokenizers.BertTokenizer(
        list(vocabulary), lowercase=lowercase, strip_accents=lowercase
    ).save_to_preset(str(directory))


def read_keras_hub(directory: pathlib.Path) -> Initial:
    """The encoder of a BERT preset; nothing of the folder is run.

    Raises:
      ValueError: another architecture, or a file that is missing or damaged.
    """
    content = read_json(directory / "config.json")
    found = content.get("registered_name") or content.get("class_name")
    if found not in _CLASSES:
        raise ValueError(
            f"{directory} is a preset of another architecture, {found!r};"
            " only BertBackbone can be read."
        )
    try:
        fields = content["config"]
        sizes = {size.ours: int(fields[size.keras_hub]) for size in bert.SIZES}
        dropout = float(fields.get("dropout", 0.1))
        num_types = int(fields.get("num_segments", bert.NUM_TYPES))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{directory}/config.json does not describe a BertBackbone:"
            f" {error!r}."
        ) from error
    if num_types != bert.NUM_TYPES:
        raise ValueError(
            f"{directory} holds a BERT with num_segments={num_types}; only"
            f" {bert.NUM_TYPES} can be read."
        )
    settings = read_json(directory / "tokenizer.json")
    return bert.initial(
        directory,
        form=FORM,
        sizes=sizes,
        lowercase=bool(settings.get("config", {}).get("lowercase", False)),
        vocabulary=_read_vocabulary(directory),
        read_weights=lambda: _read_weights(directory, sizes, dropout=dropout),
        activation=_ACTIVATION,
        dropout=dropout,
        attention_dropout=dropout,
        layer_norm_epsilon=_EPSILON,
    )


def _read_vocabulary(directory: pathlib.Path) -> list[str]:
    path = directory / "assets" / "tokenizer" / "vocabulary.txt"
    if not path.is_file():
        raise ValueError(f"{path} is missing.")
    # Not splitlines(): a piece may be a line break of Unicode.
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _read_weights(
    directory: pathlib.Path, sizes: dict[str, int], *, dropout: float
) -> Weights:
    # Built from numbers: the classes that a preset names are not looked up.
    backbone = _create(sizes, dropout=dropout)
    sharded = directory / "model.weights.json"
    path = sharded if sharded.exists() else directory / "model.weights.h5"
    try:
        backbone.load_weights(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is missing, damaged or not of the model in config.json:"
            f" {str(error).splitlines()[0]}"
        ) from error
    arrays = {v.path: v.numpy() for v in backbone.trainable_variables}
    wanted = {
        variable.path: arrays.pop(variable.keras_hub)
        for variable in bert.variables(sizes)
        if variable.keras_hub
    }
    dropped = [*arrays]
    if (directory / "task.weights.h5").exists():
        dropped.append("task.weights.h5")
    return Weights(wanted, sorted(dropped))


def _create(sizes: Mapping[str, int], *, dropout: float) -> Any:
    import keras_hub

    return keras_hub.models.BertBackbone(
        **{size.keras_hub: sizes[size.ours] for size in bert.SIZES},
        dropout=dropout,
        num_segments=bert.NUM_TYPES,
        dtype="float32",
    )
