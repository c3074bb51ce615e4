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
from input_pipeline import label_sets, labelled_texts, manifest
from trainer import chain, ngrams
from trainer.report import data, statistics
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
    accuracy = float(statistics.right_documents(labels, rates).mean())
    doubted, answers, sure = _doubted(labels, rates)
    label_of, answer_of = (
        label_sets.named(of, names) for of in (labels[doubted], answers)
    )
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
                "text": texts.excerpts[document],
                "label": label,
                "answer": answer,
                "probability": float(probability),
            }
            for document, label, answer, probability in zip(
                doubted, label_of, answer_of, sure, strict=True
            )
        ][:_NUM_SHOWN],
        "giveaways": [*itertools.islice(_giveaways(fitter, rows), _NUM_SHOWN)],
        "contested": _contested(texts, rows)[:_NUM_SHOWN],
        "validation": validation,
        "gap": 1.96 * math.sqrt(disagreeing / max(1, validation)),
        "wanted_gap": _GAP,
        "validation_wanted": math.ceil(disagreeing * (1.96 / _GAP) ** 2),
    }


def _doubted(
    labels: np.ndarray, rates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels in doubt, the least probable first.

    Of several labels (bool [N, C]), each is judged by itself: whether a
    document has a class is a label of two classes.

    Returns:
      The documents int [D], their answers in the form of the labels, and the
      probabilities of these, float [D].
    """
    if labels.ndim == 2:
        own = np.where(labels, rates, 1 - rates)
        sure, sure_without = (
            (own * of).sum(axis=0) / np.maximum(of.sum(axis=0), 1)
            for of in (labels, ~labels)
        )  # [C]
        is_sure = 1 - own >= np.where(labels, sure_without, sure)
        found = np.argwhere((own < 0.5) & is_sure)
        order = np.argsort(own[tuple(found.T)], kind="stable")
        documents, classes = found[order].T
        changed = labels[documents]
        changed[np.arange(len(documents)), classes] ^= True
        return documents, changed, 1 - own[documents, classes]
    every, num_classes = np.arange(len(labels)), rates.shape[1]
    answers, own = rates.argmax(axis=1), rates[every, labels]
    usual = np.bincount(labels, own, num_classes) / np.maximum(
        np.bincount(labels, minlength=num_classes), 1
    )
    is_sure = rates[every, answers] >= usual[answers]
    documents = np.flatnonzero((answers != labels) & is_sure)
    documents = documents[np.argsort(own[documents], kind="stable")]
    answers = answers[documents]
    return documents, answers, rates[documents, answers]


def _out_of_fold(fitter: ngram_fitting.Fitter, marks: np.ndarray) -> np.ndarray:
    """Probabilities [N, C] by models that have not seen the document."""
    import threadpoolctl
    from scipy import special

    for solver in fitter.solvers:
        solver.set_params(warm_start=False, max_iter=_STEPS)
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
    logits = scale[0] * logits + bias
    if fitter.labels.ndim == 2:
        return special.expit(logits)
    return special.softmax(ngrams.by_class(logits), axis=1)


def _classes(
    texts: labelled_texts.LabelledTexts, rows: manifest.Prepared
) -> list[dict[str, Any]]:
    """Documents by role and lengths in tokens, class by class."""
    labels = texts.documents.labels
    lengths = np.bincount(texts.documents.owners, minlength=len(labels))
    found = []
    for name, has in zip(rows.labels, _members(labels, rows).T, strict=True):
        median, long = np.percentile(lengths[has], [50, 95])
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


def _members(labels: np.ndarray, rows: manifest.Prepared) -> np.ndarray:
    """Labels, int [N] or bool [N, C], as bool [N, C]."""
    if rows.multilabel:
        return labels
    return np.eye(len(rows.labels), dtype=bool)[labels]


def _giveaways(
    fitter: ngram_fitting.Fitter, rows: manifest.Prepared
) -> Iterator[dict[str, Any]]:
    """N-grams that all but tell a class, those in most of it first."""
    known = _members(fitter.labels, rows).astype(np.float32)
    sizes = known.sum(axis=0)[:, np.newaxis]  # [C, 1]
    inside = (fitter.features.T @ known).T  # [C, G]
    outside = np.asarray(fitter.features.sum(axis=0)) - inside
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
    texts: labelled_texts.LabelledTexts, rows: manifest.Prepared
) -> list[list[dict[str, str]]]:
    """Texts that are the same or nearly so, but are labelled differently."""
    members = _members(texts.documents.labels, rows)
    sets, labels = np.unique(members, axis=0, return_inverse=True)
    if not rows.multilabel:
        sets = sets.argmax(axis=1)
    names = label_sets.named(sets, rows.labels)
    order = np.argsort(texts.marks, kind="stable")
    ends = np.flatnonzero(np.diff(texts.marks[order])) + 1
    return [
        [{"text": texts.excerpts[i], "label": names[labels[i]]} for i in group]
        for group in np.split(order, ends)
        if len({*labels[group].tolist()}) > 1
    ]
