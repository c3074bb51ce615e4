"""What is wrong with labelled text, as far as a linear model can tell.

N documents, G n-grams, C classes.
"""

import itertools
import json
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import storage
from input_pipeline import labelled_texts, manifest
from trainer import chain, ngrams
from trainer.report import data
from trainer.run import Run
from trainer.stages import ngram_fitting

_log = logging.getLogger(__name__)
FILE = "audit.json"  # In the workdir.
# Tokens times classes that are looked at, about; of more, every second document
# is left out, and so on.
_MOST_WORK = 2**24
# Folds; steps, strength and weights of the model of each.
_FOLDS, _STEPS, _STRENGTH, _MAX_WEIGHTS = 4, 20, 10.0, 2**18
_NUM_SHOWN = 20  # Of each kind of finding.
# An n-gram gives a label away if it is in so many documents of the class, in
# such a share of them, so many times as frequent as elsewhere, and if such a
# share of the documents with it have the label.
_FEWEST, _SHARE, _RATIO, _CERTAINTY = 10, 0.2, 20, 0.95
_SAME = 0.5  # Of its documents are told by another: it says little more.
# The difference of accuracies that validation should show.
_GAP = 0.02


def run(run: Run) -> None:
    """Writes audit.json for the labelled rows, once, and says what it holds.

    Raises:
      NoLabelsError: the text has no labels.
    """
    rows = run.labelled_rows
    if rows.tokenizer.vocabulary_size > ngram_fitting.MAX_VOCABULARY:
        _log.info("the vocabulary is too large for an audit with n-grams")
        return
    facts = read(run.workdir)
    if not is_done(run):
        start = time.perf_counter()
        work = max(1, len(rows.labels) - 1) * sum(
            role.num_tokens for role in rows.roles.values()
        )
        texts = labelled_texts.read(
            run.config, run.corpus, rows, every=-(-work // _MOST_WORK)
        )
        facts = {
            **of(texts, rows),
            "near_duplicates": run.corpus.survey.near_duplicates,
            "seconds": round(time.perf_counter() - start, 1),
            **_wanted(run).to_dict(),
        }
        path = storage.path_of(run.workdir) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write_json(path, facts)
    for line in (*data.audit_lines(facts), *data.suspect_lines(facts)):
        _log.info("%s", line)


def is_done(run: Run) -> bool:
    """Whether the workdir has the audit that `run` would write."""
    made = read(run.workdir).get("artifact", {}).get("id")
    return made == _wanted(run).id


def _wanted(run: Run) -> chain.Artifact:
    made_from = {"labelled rows": run.labelled_rows.fingerprint}
    return chain.Artifact.of("audit", run.config, made_from)


def read(workdir: str) -> dict[str, Any]:
    """What `run` wrote; {} if there is nothing."""
    path = storage.path_of(workdir) / FILE
    try:
        return json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        _log.warning("%s is damaged (%s) and does not count", path, error)
        return {}


def of(
    texts: labelled_texts.LabelledTexts, rows: manifest.Prepared
) -> dict[str, Any]:
    """The facts, JSON: classes, labels in doubt, words that give one away.

    A label is in doubt if a model of n-grams that was fitted on other documents
    prefers another class, and is as sure of it as it is of those that have that
    label, on average. The least probable labels come first (Northcutt et al.,
    "Confident Learning", 2021). None of the other documents is nearly the same
    as the one that is judged.
    """
    documents, names = texts.documents, rows.labels
    labels, number = documents.labels, len(documents.labels)
    fitter = ngram_fitting.Fitter(
        documents,
        None,
        rows.tokenizer.is_special,
        np.ones(len(names), np.float32),
        max_weights=_MAX_WEIGHTS,
    )
    rates = _out_of_fold(fitter, texts.marks)
    answers, own = rates.argmax(axis=1), rates[np.arange(number), labels]
    usual = np.bincount(labels, own, len(names)) / np.maximum(
        np.bincount(labels, minlength=len(names)), 1
    )
    is_sure = rates[np.arange(number), answers] >= usual[answers]
    doubted = np.flatnonzero((answers != labels) & is_sure)
    accuracy = float((answers == labels).mean())
    # Two classifiers disagree about as often as one of them errs, which it does
    # even where all answers are right (Agresti and Coull, 1998). McNemar's test
    # (1947) sees a difference of 1.96 standard deviations.
    disagreeing = (number * (1 - accuracy) + 2) / (number + 4)
    validation = rows.roles["validation"].num_documents
    return {
        "documents": number,
        "accuracy": accuracy,
        "classes": _classes(texts, rows),
        "doubted": len(doubted),
        "suspects": [
            {
                "text": texts.excerpts[i],
                "label": names[labels[i]],
                "answer": names[answers[i]],
                "probability": float(rates[i, answers[i]]),
            }
            for i in doubted[np.argsort(own[doubted], kind="stable")]
        ][:_NUM_SHOWN],
        "giveaways": [*itertools.islice(_giveaways(fitter, rows), _NUM_SHOWN)],
        "contested": _contested(texts, names)[:_NUM_SHOWN],
        "validation": validation,
        "gap": 1.96 * math.sqrt(disagreeing / max(1, validation)),
        "wanted_gap": _GAP,
        "validation_wanted": math.ceil(disagreeing * (1.96 / _GAP) ** 2),
    }


def _out_of_fold(fitter: ngram_fitting.Fitter, marks: np.ndarray) -> np.ndarray:
    """Probabilities [N, C] by models that have not seen the document."""
    import threadpoolctl
    from scipy import special

    fitter.solver.set_params(warm_start=False, max_iter=_STEPS)
    _, numbers = np.unique(marks, return_inverse=True)
    folds, found = numbers % _FOLDS, []
    for fold in range(_FOLDS):
        # Not 0: there may be no other document, or none of a class.
        weights = np.where(folds == fold, 1e-6, 1).astype(np.float32)
        # Of the many short steps, threads would make many short waits.
        with threadpoolctl.threadpool_limits(1):
            model = fitter.regression(_STRENGTH, weights)
        found.append(fitter.answers(model))
    logits = np.choose(folds[:, np.newaxis], found)
    same = np.ones(len(logits), np.float32)
    scale, bias = ngrams.combine([logits], fitter.labels, same)
    return special.softmax(ngrams.by_class(scale[0] * logits + bias), axis=1)


def _classes(
    texts: labelled_texts.LabelledTexts, rows: manifest.Prepared
) -> list[dict[str, Any]]:
    """Documents by role and lengths in tokens, class by class."""
    labels = texts.documents.labels
    lengths = np.bincount(texts.documents.owners, minlength=len(labels))
    found = []
    for number, name in enumerate(rows.labels):
        median, long = np.percentile(lengths[labels == number], [50, 95])
        found.append(
            {
                "label": name,
                "train": rows.report["train"]["labels"][name],
                "validation": rows.report["validation"]["labels"][name],
                "median_tokens": float(median),
                "long_tokens": float(long),
            }
        )
    return found


def _giveaways(
    fitter: ngram_fitting.Fitter, rows: manifest.Prepared
) -> Iterator[dict[str, Any]]:
    """N-grams that all but tell a class, those in most of it first."""
    known = np.eye(fitter.num_classes, dtype=np.float32)[fitter.labels]
    sizes = known.sum(axis=0)[:, np.newaxis]  # [C, 1]
    inside = (fitter.features.T @ known).T  # [C, G]
    outside = inside.sum(axis=0) - inside
    shares = inside / np.maximum(sizes, 1)
    ratios = shares / ((outside + 1) / (len(known) - sizes + 1))
    found = np.argwhere(
        (inside >= _FEWEST)
        & (shares >= _SHARE)
        & (ratios >= _RATIO)
        & (inside >= _CERTAINTY * (inside + outside))
    )
    # Of n-grams that occur together the longest comes first.
    order = np.lexsort([-found[:, 1], -shares[tuple(found.T)]])
    columns = fitter.features.tocsc()
    is_told = np.zeros(known.shape, bool)  # [N, C], by one that is shown.
    for label, column in found[order].tolist():
        having = columns[:, column].nonzero()[0]
        if is_told[having, label].mean() > _SAME:
            continue
        is_told[having, label] = True
        ids = ngrams.token_ids(int(fitter.keys[column]), fitter.vocabulary_size)
        yield {
            "words": rows.tokenizer.decode(ids),
            "label": rows.labels[label],
            "documents": int(inside[label, column]),
            "share": float(shares[label, column]),
            "others": int(outside[label, column]),
        }


def _contested(
    texts: labelled_texts.LabelledTexts, names: tuple[str, ...]
) -> list[list[dict[str, str]]]:
    """Texts that are the same or nearly so, but have several labels."""
    labels = texts.documents.labels
    order = np.argsort(texts.marks, kind="stable")
    ends = np.flatnonzero(np.diff(texts.marks[order])) + 1
    return [
        [{"text": texts.excerpts[i], "label": names[labels[i]]} for i in group]
        for group in np.split(order, ends)
        if len({*labels[group].tolist()}) > 1
    ]
