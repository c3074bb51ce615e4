"""BERT as Hugging Face's transformers keep it, arrays and text alone.

Their linear layers hold [out, in]; ours [in, out], with the heads apart.
"""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy

import storage
from configs import schema
from trainer.modeling import heads
from trainer.modeling.initial import Initial, Weights
from trainer.modeling.interchange import bert

FORM = "Hugging Face BERT"
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
# What our models cannot be, and what their absence means.
_FIXED = {
    "type_vocab_size": bert.NUM_TYPES,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_NAMES = {
    "encoder/token_embedding": "embeddings.word_embeddings",
    "encoder/position_embedding": "embeddings.position_embeddings",
    "encoder/type_embedding": "embeddings.token_type_embeddings",
    "encoder/embedding_norm": "embeddings.LayerNorm",
    "masked_lm_head/transform_dense": "cls.predictions.transform.dense",
    "masked_lm_head/transform_norm": "cls.predictions.transform.LayerNorm",
    "masked_lm_head": "cls.predictions",
}
_LAYER_NAMES = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output_dense": "output.dense",
    "feedforward_norm": "output.LayerNorm",
}
_LAYER = re.compile(r"encoder/transformer_layer_(\d+)/(.*)")
# Formats that run code when they are loaded, or that nobody checks for it.
_PICKLES = ("*.bin", "*.h5", "*.pt", "*.pth", "*.ckpt*", "*.msgpack", "*.pkl")


def write_huggingface(
    directory: pathlib.Path, model: heads.MaskedLM, vocabulary: Sequence[str]
) -> None:
    """Writes what `transformers.BertForMaskedLM.from_pretrained` loads.

    Args:
      directory: made where it is missing.
      model: of BERT's shape; its weights are written as float32.
      vocabulary: word pieces by id.

    Raises:
      ValueError: the model is not BERT, or the vocabulary is not WordPiece.
    """
    shape = model.encoder.model_config
    bert.require(bert.why_not_bert(shape), FORM)
    bert.check_vocabulary(
        vocabulary,
        size=model.encoder.vocabulary_size,
        source="The vocabulary of the model",
    )
    directory.mkdir(parents=True, exist_ok=True)
    length = model.encoder.sequence_length
    storage.write_json(
        directory / "config.json",
        _their_config(shape, vocabulary, sequence_length=length),
    )
    arrays = {
        _with_prefix(_name(variable.path)): _theirs(
            variable.path, keras.ops.convert_to_numpy(variable)
        )
        for variable in model.variables
    }
    # transformers refuse a file that does not say which framework it is for.
    safetensors.numpy.save_file(
        arrays, directory / "model.safetensors", metadata={"format": "pt"}
    )
    text = "".join(f"{token}\n" for token in vocabulary)
    (directory / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")
    special = {
        f"{name}_token": f"[{name.upper()}]"
        for name in ("pad", "unk", "cls", "sep", "mask")
    }
    storage.write_json(directory / "special_tokens_map.json", special)
    # As `input_pipeline.tokenizer.WordPieceTokenizer` splits words.
    splitting = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "strip_accents": True,
        "tokenize_chinese_chars": True,
        "model_max_length": length,
    }
    storage.write_json(directory / "tokenizer_config.json", splitting | special)


def read_huggingface(directory: pathlib.Path) -> Initial:
    """A BERT with absolute positions, with or without a masked-LM head.

    Raises:
      ValueError: another architecture, a file that is missing or damaged,
        weights only as a pickle, or a vocabulary that keeps upper case.
    """
    config = read_json(directory / "config.json")
    try:
        shape, length = _our_config(config, directory)
        size = int(config["vocab_size"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{directory}/config.json is none of a BERT: {error!r}."
        ) from error
    _require_safetensors(directory)
    vocabulary = _read_vocabulary(directory)
    bert.check_vocabulary(
        vocabulary, size=size, source=f"The vocabulary in {directory}"
    )
    shapes = bert.shapes(shape, vocabulary_size=size, sequence_length=length)
    return Initial(
        path=str(directory),
        form=FORM,
        kind="wordpiece",
        vocabulary=vocabulary,
        model_config=shape,
        sequence_length=length,
        read_weights=lambda: _read_weights(directory, shapes),
    )


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object; raises ValueError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing.") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object.")
    return content


def _their_config(
    shape: schema.ModelConfig,
    vocabulary: Sequence[str],
    *,
    sequence_length: int,
) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    # The older name of the same function; every version knows it.
    names["gelu_tanh"] = "gelu_new"
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.intermediate_size,
        "hidden_act": names[shape.activation],
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": shape.attention_dropout,
        "max_position_embeddings": sequence_length,
        "initializer_range": shape.initializer_range,
        "layer_norm_eps": shape.layer_norm_epsilon,
        "pad_token_id": vocabulary.index("[PAD]"),
        **_FIXED,
    }


def _our_config(
    config: dict[str, Any], directory: pathlib.Path
) -> tuple[schema.ModelConfig, int]:
    """The shape of the model, and how many positions it knows."""
    found = config.get("model_type") or config.get("architectures")
    if found != "bert" and "Bert" not in str(found):
        raise ValueError(
            f"{directory} holds a model of another architecture, {found!r};"
            " only BERT can be read."
        )
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"{directory} holds a BERT with {name}={config[name]!r};"
                f" only {value!r} can be read."
            )
    activation = config.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"{directory} holds a BERT with hidden_act={activation!r}; only"
            f" {', '.join(_ACTIVATIONS)} can be read."
        )
    shape = schema.ModelConfig(
        num_layers=int(config["num_hidden_layers"]),
        hidden_size=int(config["hidden_size"]),
        num_heads=int(config["num_attention_heads"]),
        intermediate_size=int(config["intermediate_size"]),
        activation=_ACTIVATIONS[activation],
        dropout=float(config.get("hidden_dropout_prob", 0.1)),
        attention_dropout=float(
            config.get("attention_probs_dropout_prob", 0.1)
        ),
        layer_norm_epsilon=float(config.get("layer_norm_eps", 1e-12)),
        initializer_range=float(config.get("initializer_range", 0.02)),
        **bert.SHAPE,
    )
    return shape, int(config["max_position_embeddings"])


def _require_safetensors(directory: pathlib.Path) -> None:
    if [*directory.glob("model*.safetensors")]:
        return
    pickles = [p.name for glob in _PICKLES for p in directory.glob(glob)]
    if pickles:
        raise ValueError(
            f"{directory} holds weights only as {', '.join(sorted(pickles))},"
            " which could run code when loaded, and is refused; save the"
            " model as model.safetensors, with"
            " save_pretrained(..., safe_serialization=True)."
        )
    raise ValueError(f"{directory}/model.safetensors is missing.")


def _read_vocabulary(directory: pathlib.Path) -> list[str]:
    """The tokens of vocab.txt, or of tokenizer.json where there is none."""
    settings = directory / "tokenizer_config.json"
    cased = settings.exists() and not read_json(settings).get(
        "do_lower_case", True
    )
    path = directory / "vocab.txt"
    if path.exists():
        # Not splitlines(): a piece may be a line break of Unicode.
        vocabulary = path.read_text(encoding="utf-8").split("\n")
        if not vocabulary[-1]:
            del vocabulary[-1]
    else:
        content = read_json(directory / "tokenizer.json")
        try:
            ids = dict(content["model"]["vocab"])
            ids |= {t["content"]: t["id"] for t in content["added_tokens"]}
            normalizer = content["normalizer"] or {}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{directory} has no vocab.txt, and its tokenizer.json holds"
                " no WordPiece vocabulary."
            ) from error
        vocabulary = sorted(ids, key=ids.__getitem__)
        cased = cased or not normalizer.get("lowercase", True)
    if cased:
        raise ValueError(
            f"The vocabulary in {directory} keeps upper case, but Cloze makes"
            " all text lower case; take the uncased model."
        )
    return vocabulary


def _read_weights(
    directory: pathlib.Path, shapes: dict[str, tuple[int, ...]]
) -> Weights:
    tensors = _read_tensors(directory)
    # Tied: other names of what is carried anyway.
    projection = tensors.pop("cls.predictions.decoder.weight", None)
    bias = tensors.pop("cls.predictions.decoder.bias", None)
    if bias is not None:
        tensors.setdefault("cls.predictions.bias", bias)
    table = tensors.get("embeddings.word_embeddings.weight")
    if (
        projection is not None
        and table is not None
        and not np.array_equal(projection, table)
    ):
        raise ValueError(
            f"{directory} holds a BERT whose output projection is not its"
            " token embedding; only tied ones can be read."
        )
    has_head = any(name.startswith("cls.predictions.") for name in tensors)
    arrays = {
        path: _ours(path, shape, tensors.pop(_name(path), None), directory)
        for path, shape in shapes.items()
        if has_head or path.startswith("encoder/")
    }
    return Weights(arrays, sorted(tensors))


def _read_tensors(directory: pathlib.Path) -> dict[str, np.ndarray]:
    """Tensors of all files by the names of today, without `bert.`."""
    tensors = {}
    for path in sorted(directory.glob("model*.safetensors")):
        try:
            content = safetensors.numpy.load_file(path)
        except (safetensors.SafetensorError, OSError, KeyError) as error:
            raise ValueError(f"{path} is damaged: {error}.") from error
        for name, tensor in content.items():
            name = name.removeprefix("bert.")
            name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
            name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
            tensors[name] = tensor
    return tensors


def _name(path: str) -> str:
    """Their name of a variable of ours, without `bert.`."""
    stem, leaf = path.rsplit("/", 1)
    layer = _LAYER.fullmatch(stem)
    if layer:
        name = f"encoder.layer.{layer[1]}.{_LAYER_NAMES[layer[2]]}"
    else:
        name = _NAMES[stem]
    return f"{name}.{'bias' if leaf in ('bias', 'beta') else 'weight'}"


def _with_prefix(name: str) -> str:
    return name if name.startswith("cls.") else f"bert.{name}"


def _theirs(path: str, array: np.ndarray) -> np.ndarray:
    """Their array of a variable of ours; contiguous float32."""
    shape = _their_shape(path, array.shape)
    if path.endswith("/kernel"):
        array = array.reshape(shape[::-1]).T
    return np.ascontiguousarray(array.reshape(shape), np.float32)


def _ours(
    path: str,
    shape: tuple[int, ...],
    array: np.ndarray | None,
    directory: pathlib.Path,
) -> np.ndarray:
    """The inverse of `_theirs`; raises ValueError naming the tensor."""
    name, expected = _name(path), _their_shape(path, shape)
    if array is None:
        raise ValueError(f"The weights in {directory} lack {name}.")
    if array.shape != expected:
        raise ValueError(
            f"{name} in {directory} has shape {array.shape}, but by"
            f" config.json it must have {expected}."
        )
    array = array.T if path.endswith("/kernel") else array
    return np.ascontiguousarray(array.reshape(shape), np.float32)


def _their_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if path.endswith("/attention_output/kernel"):
        return (shape[-1], int(np.prod(shape[:-1])))
    if path.endswith("/kernel"):
        return (int(np.prod(shape[1:])), shape[0])
    if "/attention/" in path:
        return (int(np.prod(shape)),)
    return shape
