"""BERT as Hugging Face's transformers store it: only arrays and text.

`bert` has the names and shapes of the variables.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy

import storage
from trainer.modeling import heads
from trainer.modeling.initial import Initial, Weights, read_json
from trainer.modeling.interchange import bert

FORM = "Hugging Face BERT"
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
# Our name, their name, and the value of a field that is missing.
_FIELDS = (
    ("dropout", "hidden_dropout_prob", 0.1),
    ("attention_dropout", "attention_probs_dropout_prob", 0.1),
    ("layer_norm_epsilon", "layer_norm_eps", 1e-12),
    ("initializer_range", "initializer_range", 0.02),
)
# Every BERT of ours has these values, which a missing field means as well.
_FIXED = {
    "type_vocab_size": bert.NUM_TYPES,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
# File, entry of it, and how the rules of the tokenizer are called there.
_RULES = (
    (
        "tokenizer.json",
        "normalizer",
        {
            "do_lower_case": "lowercase",
            "strip_accents": "strip_accents",
            "chinese": "handle_chinese_chars",
        },
    ),
    (
        "tokenizer_config.json",
        "",
        {
            "do_lower_case": "do_lower_case",
            "strip_accents": "strip_accents",
            "chinese": "tokenize_chinese_chars",
        },
    ),
)
# Formats that run code when they are loaded, or may.
_PICKLES = ("*.bin", "*.h5", "*.pt", "*.pth", "*.ckpt*", "*.msgpack", "*.pkl")


def write_huggingface(
    directory: pathlib.Path,
    model: heads.MaskedLM,
    vocabulary: Sequence[str],
    *,
    lowercase: bool = True,
) -> None:
    """Writes what `transformers.BertForMaskedLM.from_pretrained` loads.

    Args:
      directory: created if it is missing.
      model: of BERT's shape; its weights are written as float32.
      vocabulary: word pieces by id.
      lowercase: whether case and accents are dropped.
    """
    shape = model.encoder.model_config
    assert not bert.why_not_bert(shape)
    directory.mkdir(parents=True, exist_ok=True)
    sizes = bert.sizes_of(model.encoder)
    config = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        # The older name of gelu_tanh, which every version knows.
        "hidden_act": {"gelu": "gelu", "gelu_tanh": "gelu_new"}[
            shape.activation
        ],
        "pad_token_id": vocabulary.index("[PAD]"),
        **{size.huggingface: sizes[size.ours] for size in bert.SIZES},
        **{theirs: getattr(shape, ours) for ours, theirs, _ in _FIELDS},
        **_FIXED,
    }
    storage.write_json(directory / "config.json", config)
    ours = {variable.path: variable for variable in model.variables}
    arrays = {}
    for variable in bert.variables(sizes):
        name = variable.huggingface
        name = name if name.startswith("cls.") else f"bert.{name}"
        array = keras.ops.convert_to_numpy(ours[variable.path])
        arrays[name] = variable.to_huggingface(array)
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
    # As `input_pipeline.wordpiece` splits words.
    splitting = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": lowercase,
        "strip_accents": lowercase,
        "tokenize_chinese_chars": True,
        "model_max_length": sizes["sequence_length"],
    }
    storage.write_json(directory / "tokenizer_config.json", splitting | special)


def read_huggingface(directory: pathlib.Path) -> Initial:
    """A BERT with absolute positions, with or without a masked-LM head.

    Raises:
      ValueError: another architecture, a file that is missing or damaged,
        weights only as a pickle, or a tokenizer that BERT does not have.
    """
    config = read_json(directory / "config.json")
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
    try:
        sizes = {
            size.ours: int(config[size.huggingface]) for size in bert.SIZES
        }
        fields = {
            ours: float(config.get(theirs, default))
            for ours, theirs, default in _FIELDS
        }
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{directory}/config.json does not describe a BERT: {error!r}."
        ) from error
    if not [*directory.glob("model*.safetensors")]:
        pickles = [p.name for glob in _PICKLES for p in directory.glob(glob)]
        if not pickles:
            raise ValueError(f"{directory}/model.safetensors is missing.")
        raise ValueError(
            f"{directory} holds weights only as {', '.join(sorted(pickles))},"
            " which could run code when loaded, and is refused; save the"
            " model as model.safetensors, with"
            " save_pretrained(..., safe_serialization=True)."
        )
    vocabulary, lowercase = _read_tokenizer(directory)
    return bert.initial(
        directory,
        form=FORM,
        sizes=sizes,
        lowercase=lowercase,
        vocabulary=vocabulary,
        read_weights=lambda: _read_weights(directory, sizes),
        activation=_ACTIVATIONS[activation],
        **fields,
    )


def _read_tokenizer(directory: pathlib.Path) -> tuple[list[str], bool]:
    """The tokens by id, and whether case and accents are dropped."""
    path, rules = directory / "vocab.txt", _read_rules(directory)
    if path.exists():
        # Not splitlines(): a piece may be a line break of Unicode.
        vocabulary = path.read_text(encoding="utf-8").split("\n")
        if not vocabulary[-1]:
            del vocabulary[-1]
        return vocabulary, rules
    content = read_json(directory / "tokenizer.json")
    try:
        ids = dict(content["model"]["vocab"])
        ids |= {t["content"]: t["id"] for t in content["added_tokens"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{directory} has no vocab.txt, and its tokenizer.json holds"
            " no WordPiece vocabulary."
        ) from error
    return sorted(ids, key=ids.__getitem__), rules


def _read_rules(directory: pathlib.Path) -> bool:
    """Whether case and accents are dropped; other rules are refused."""
    rules: dict[str, Any] = {}
    # What the second file says counts.
    for file, key, names in _RULES:
        if (directory / file).exists():
            content = read_json(directory / file)
            content = (content.get(key) or {}) if key else content
            rules |= {
                ours: content[theirs]
                for ours, theirs in names.items()
                if content.get(theirs) is not None
            }
    lowercase = bool(rules.get("do_lower_case", True))
    stripped = rules.get("strip_accents")  # None: with the case.
    if stripped not in (None, lowercase) or not rules.get("chinese", True):
        raise ValueError(
            f"The tokenizer in {directory} is not BERT's: do_lower_case is"
            f" {lowercase}, strip_accents {stripped} and"
            f" tokenize_chinese_chars {rules.get('chinese', True)}; only"
            " tokenizers that strip accents with the case, and split Chinese"
            " characters, can be read."
        )
    return lowercase


def _read_weights(directory: pathlib.Path, sizes: dict[str, int]) -> Weights:
    # By the names of today, without `bert.`.
    tensors: dict[str, Any] = {}
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
    # Tied: other names of what is carried anyway.
    projection = tensors.pop("cls.predictions.decoder.weight", None)
    bias = tensors.pop("cls.predictions.decoder.bias", None)
    if bias is not None:
        tensors.setdefault("cls.predictions.bias", bias)
    table: Any = tensors.get("embeddings.word_embeddings.weight")
    if projection is not None and not np.array_equal(projection, table):
        raise ValueError(
            f"{directory} holds a BERT whose output projection is not its"
            " token embedding; only tied ones can be read."
        )
    has_head = any(name.startswith("cls.predictions.") for name in tensors)
    arrays = {}
    for variable in bert.variables(sizes):
        if not has_head and variable.huggingface.startswith("cls."):
            continue
        name, expected = variable.huggingface, variable.huggingface_shape
        tensor = tensors.pop(name, None)
        if tensor is None:
            raise ValueError(f"The weights in {directory} lack {name}.")
        if tensor.shape != expected:
            raise ValueError(
                f"{name} in {directory} has shape {tensor.shape}, but by"
                f" config.json it must have {expected}."
            )
        arrays[variable.path] = variable.from_huggingface(tensor)
    return Weights(arrays, sorted(tensors))
