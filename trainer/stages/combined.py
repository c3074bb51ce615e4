"""An encoder and n-grams in one model, weighted by how well they validate."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import classification, manifest
from input_pipeline.documents import Documents
from trainer import checkpoint, modeling, ngrams, trained
from trainer.stages import decisions

_log = logging.getLogger(__name__)


def create(
    tuned: trained.Trained, prepared: manifest.Prepared, workdir: str
) -> tuple[modeling.TextClassifier, dict[str, Any]]:
    """The classifier that takes strings, and how each part of it validates."""
    config = tuned.config.finetune
    facts = ngrams.read_facts(workdir)
    fitted = None
    made_from = facts.get("artifact", {}).get("made_from", {})
    if config.ngrams and made_from.get("labelled rows") == prepared.fingerprint:
        fitted = ngrams.NGrams.load(workdir)
    weights = decisions.class_weights(config, prepared)
    model = modeling.TextClassifier(
        **common(tuned, prepared),
        finetune=dataclasses.asdict(config),
        labels=tuned.resolved["labels"],
        multilabel=prepared.multilabel,
        num_ngrams=len(fitted.keys) if fitted else 0,
        class_weights=()
        if config.class_weights == "none"
        else weights.tolist(),
    )
    if model.classifier:
        assert tuned.checkpoint is not None
        checkpoint.read_weights(tuned.checkpoint, model.classifier.variables)
    if model.mixture is None:
        return model, {}
    if fitted and model.ngrams:
        model.ngrams.assign(fitted)
    return model, _mix(model, fitted, prepared, tuned.config, weights)


def create_encode(
    classifier: modeling.TextClassifier,
) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
    """Makes the function from labelled rows to the encoder's logits [N, K].

    It takes a batch and answers its N documents, row by row.
    """

    @tf.function(autograph=False)  # Takes 1.7 times as long without a graph.
    def encode(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        assert classifier.classifier is not None
        found = classifier.classifier(batch)  # [B, S, K]
        return tf.boolean_mask(found, batch["label_weights"] > 0)

    return encode


def create_answer(
    classifier: modeling.TextClassifier,
) -> Callable[[dict[str, tf.Tensor], Documents], list[tf.Tensor]]:
    """Makes the function from labelled rows to the logits of every part.

    It takes a batch and its N documents, see `classification.documents_of`,
    and returns float32 [N, K] for each part.
    """
    encode = create_encode(classifier)

    def answer(
        batch: dict[str, tf.Tensor], documents: Documents
    ) -> list[tf.Tensor]:
        parts = []
        if classifier.classifier is not None:
            parts.append(encode(batch))
        if classifier.ngrams is not None:
            tokens = map(tf.constant, documents[:3])
            number = len(documents.labels)
            parts.append(classifier.ngrams(*tokens, num_documents=number))
        return parts

    return answer


def _mix(
    classifier: modeling.TextClassifier,
    fitted: ngrams.NGrams | None,
    prepared: manifest.Prepared,
    config: schema.Config,
    class_weights: np.ndarray,
) -> dict[str, Any]:
    """Fits the weights of the parts, and the thresholds if there are any.

    Returns the loss and accuracy of each part, and how well it decides. All
    these numbers are a little too good, unlike those of the test split: what is
    fitted here, and before it the encoder and the strength of the n-grams, was
    chosen on these validation documents.
    """
    truth = classification.documents(prepared, config, "validation").labels
    counted = ngrams.document_weights(class_weights, truth)
    named = {"n-grams": fitted.validation} if fitted else {}
    if classifier.classifier is not None:
        encode = create_encode(classifier)
        found = [np.zeros([0, classifier.num_logits])]
        labels = [truth[:0]]
        for batch in classification.validation_batches(prepared, config):
            used = batch["label_weights"].numpy() > 0  # [B, S]
            labels.append(batch["labels"].numpy()[used])
            found.append(encode(batch).numpy())
        same_order = np.array_equal(np.concatenate(labels), truth)
        assert same_order, "documents in another order"
        named = {"encoder": np.concatenate(found), **named}
    parts = [*named.values()]
    weights, bias = ngrams.combine(parts, truth, counted)
    assert classifier.mixture is not None
    classifier.mixture.assign(np.concatenate([weights, bias]))
    results: dict[str, Any] = {
        "documents": len(truth),
        "weights": dict(zip(named, map(float, weights), strict=True)),
    }
    together = np.tensordot(weights, np.stack(parts), 1) + bias
    if len(parts) > 1:
        named["together"] = together
    for name, part in named.items():
        loss, accuracy = ngrams.measure(part, truth, counted)
        results[name] = {"loss": loss, "accuracy": accuracy}
        _log.info(
            "validation, %s: accuracy %.2f %%, loss %.4f, of %s documents",
            f"{name} alone" if name != "together" else "combined",
            100 * accuracy,
            loss,
            f"{len(truth):,}",
        )
    if classifier.thresholds is not None:
        results["decisions"] = decisions.on_validation(
            classifier, truth, together
        )
    return results


def common(
    source: trained.Trained, prepared: manifest.Prepared
) -> dict[str, Any]:
    """The arguments that every model that takes strings has."""
    tokenizer = prepared.tokenizer
    assert tokenizer.vocabulary_size == source.resolved["vocabulary_size"]
    return {
        "kind": tokenizer.kind,
        "lowercase": tokenizer.lowercase,
        "vocabulary": tokenizer.vocabulary,
        "sequence_length": source.config.data.sequence_length,
        "model": dataclasses.asdict(source.config.model),
    }
