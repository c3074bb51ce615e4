"""Writing the SavedModel.

N texts, C classes, M masks, K fill-ins for each, D width.
"""

import functools
import pathlib
from collections.abc import Callable

import tensorflow as tf

from trainer import modeling
from trainer.serving import loading

_TEXT = tf.TensorSpec([None], tf.string, name="text")


def save(
    directory: pathlib.Path,
    *,
    classifier: modeling.TextClassifier | None,
    masked_lm: modeling.TextMaskedLM | None,
) -> list[str]:
    """Writes `directory`/saved_model, with at least one of the models.

    Signatures, each of `text`, string [N], for any N:
      classify -> see `TextClassifier.classify`.
      explain -> see `modeling.explain`.
      fill_mask -> see `TextMaskedLM.call`.
      embed -> `embeddings` float32 [N, D], of the masked-LM's encoder where
        there is one; left out where there is no encoder at all.

    Returns:
      The names of the signatures it has.
    """
    models = [model for model in (masked_lm, classifier) if model is not None]
    module = tf.Module()
    # What the graphs use must hang on what is saved.
    module.weights = [v.value for model in models for v in model.variables]
    module.tables = [model.codec.tables for model in models]
    functions: dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]] = {}
    if masked_lm or (classifier and classifier.classifier):
        functions["embed"] = lambda text: {"embeddings": models[0].embed(text)}
    if classifier is not None:
        functions["classify"] = classifier.classify
        functions["explain"] = functools.partial(modeling.explain, classifier)
    if masked_lm is not None:
        functions["fill_mask"] = masked_lm.call
    signatures = {
        name: tf.function(function, input_signature=[_TEXT], autograph=False)
        for name, function in sorted(functions.items())
    }
    tf.saved_model.save(module, str(directory / loading.FOLDER), signatures)
    return list(signatures)
