"""An encoder and n-grams in one model, weighted by how well they validate."""

import dataclasses
import logging
from typing import Any

import numpy as np
import tensorflow as tf

from configs import schema
from input_pipeline import classification, manifest
from input_pipeline.documents import Documents
from trainer import checkpoint, modeling, ngrams, trained

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
    model = modeling.TextClassifier(
        **common(tuned, prepared),
        finetune=dataclasses.asdict(config),
        labels=tuned.resolved["labels"],
        num_ngrams=len(fitted.keys) if fitted else 0,
    )
    if model.classifier:
        assert tuned.checkpoint is not None
        checkpoint.read_weights(tuned.checkpoint, model.classifier.variables)
    if not (fitted and model.ngrams):
        return model, {}
    model.ngrams.assign(fitted)
    return model, _mix(model, fitted, prepared, tuned.config)


def logits(
    classifier: modeling.TextClassifier,
    batch: dict[str, tf.Tensor],
    documents: Documents,
) -> list[np.ndarray]:
    """The logits of every part for the documents of a batch, [N, K] each.

    Args:
      classifier: from `create`.
      batch: of labelled rows.
      documents: from `classification.documents_of`.
    """
    found = []
    if classifier.classifier is not None:
        by_row = classifier.classifier(batch).numpy()  # [B, S, K]
        found.append(by_row[batch["label_weights"].numpy() > 0])
    if classifier.ngrams is not None:
        answers = classifier.ngrams(
            *map(tf.constant, documents[:3]),
            num_documents=len(documents.labels),
        )
        found.append(answers.numpy())
    return found


def _mix(
    classifier: modeling.TextClassifier,
    fitted: ngrams.NGrams,
    prepared: manifest.Prepared,
    config: schema.Config,
) -> dict[str, Any]:
    """Fits the weights of the parts; returns the loss and accuracy of each.

    They are fitted on the validation documents, by which the encoder and the
    strength of the n-grams were chosen too: all these numbers are a little too
    good, unlike those of the test split.
    """
    truth = classification.documents(prepared, config, "validation").labels
    named = {"n-grams": fitted.validation}
    if classifier.classifier is not None:
        found = [np.zeros([0, classifier.num_logits])]
        labels = []
        for batch in classification.validation_batches(prepared, config):
            used = batch["label_weights"].numpy() > 0  # [B, S]
            labels.extend(batch["labels"].numpy()[used])
            answers = classifier.classifier(batch).numpy()  # [B, S, K]
            found.append(answers[used])
        assert np.array_equal(labels, truth), "documents in another order"
        named = {"encoder": np.concatenate(found), **named}
    parts = [*named.values()]
    weights, bias = ngrams.combine(parts, truth)
    assert classifier.mixture is not None
    classifier.mixture.assign(np.concatenate([weights, bias]))
    results: dict[str, Any] = {
        "documents": len(truth),
        "weights": dict(zip(named, map(float, weights), strict=True)),
    }
    if len(parts) > 1:
        named["together"] = np.tensordot(weights, np.stack(parts), 1) + bias
    for name, part in named.items():
        loss, accuracy = ngrams.measure(part, truth)
        results[name] = {"loss": loss, "accuracy": accuracy}
        _log.info(
            "validation, %s: accuracy %.2f %%, loss %.4f, of %s documents",
            f"{name} alone" if name != "together" else "combined",
            100 * accuracy,
            loss,
            f"{len(truth):,}",
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
