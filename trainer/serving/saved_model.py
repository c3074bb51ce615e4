"""The exported SavedModel: writing it, and reading it without our code.

N texts, C classes, M masks, K fill-ins for each, D width.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer import modeling, storage

FOLDER = "saved_model"
# Of the facts in the manifest; raised whenever a reader has to change.
FORMAT = 1
_TEXT = tf.TensorSpec([None], tf.string, name="text")
_Signature = Callable[..., dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Exported:
    """An export directory, verified and loaded.

    Attributes:
      facts: its manifest: labels, max_masks, top_k, tokenizer, config, ….
      signatures: by name; each takes `text`, string [N].
    """

    facts: dict[str, Any]
    signatures: dict[str, _Signature]


def save(
    directory: pathlib.Path,
    *,
    classifier: modeling.TextClassifier | None,
    masked_lm: modeling.TextMaskedLM | None,
) -> list[str]:
    """Writes `directory`/saved_model, with at least one of the models.

    Signatures, each of `text`, string [N], for any N:
      classify -> `probabilities` float32 [N, C], `label` string [N].
      fill_mask -> see `TextMaskedLM.call`.
      embed -> `embeddings` float32 [N, D], of the masked-LM's encoder where
        there is one.

    Returns:
      The names of the signatures it has.
    """
    models = [model for model in (masked_lm, classifier) if model is not None]
    module = tf.Module()
    # What the graphs use must hang on what is saved.
    module.weights = [v.value for model in models for v in model.variables]
    module.words = [model.codec.layer for model in models]
    functions: dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]] = {
        "embed": lambda text: {"embeddings": models[0].embed(text)}
    }
    if classifier is not None:
        functions["classify"] = lambda text: _classify(classifier, text)
    if masked_lm is not None:
        functions["fill_mask"] = masked_lm.call
    signatures = {
        name: tf.function(function, input_signature=[_TEXT], autograph=False)
        for name, function in sorted(functions.items())
    }
    tf.saved_model.save(module, str(directory / FOLDER), signatures)
    return list(signatures)


def load(directory: str | pathlib.Path) -> Exported:
    """Verifies an export directory and loads its SavedModel.

    Raises:
      ValueError: a file is missing or changed, it is no export of this
        format, or it needs a package that is not installed.
    """
    try:
        facts = storage.verify(directory)
    except storage.DamagedError as error:
        raise storage.DamagedError(
            f"{error} Export again with --mode=export, or restore"
            f" {directory} from a copy."
        ) from error
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{directory} is no export of format {FORMAT}, but"
            f" {facts.get('format')!r}; export again with --mode=export."
        )
    if facts["tokenizer"] == "wordpiece":
        _import_operations(directory)
    module = tf.saved_model.load(str(pathlib.Path(directory) / FOLDER))
    # The module owns the variables: without it they are gone.
    signatures = {
        name: _keeping(module, module.signatures[name])
        for name in facts["signatures"]
    }
    return Exported(facts, signatures)


def _classify(
    classifier: modeling.TextClassifier, text: tf.Tensor
) -> dict[str, tf.Tensor]:
    rates = classifier.call(text)
    labels = tf.gather(classifier.labels, tf.argmax(rates, axis=-1))
    return {"probabilities": rates, "label": labels}


def _keeping(module: Any, function: Any) -> _Signature:
    def call(text: tf.Tensor) -> dict[str, tf.Tensor]:
        assert module is not None
        return function(text=text)

    return call


def _import_operations(directory: str | pathlib.Path) -> None:
    """Registers the operations that split words into pieces."""
    try:
        importlib.import_module("tensorflow_text")
    except ImportError as error:
        raise ValueError(
            f"{directory} has a WordPiece tokenizer, whose operations are in"
            f" the package tensorflow-text; install it: {error}."
        ) from error
