"""Fitting n-grams: to labels alone, or to text without labels as well.

N documents, n of them with labels, G n-grams, C classes, K logits of a
document: 1 for two classes (that of the second), else C. Labels are int32 [n],
or bool [n, C] where a document may have several; then K is C.
"""

import dataclasses
import logging
import time
import warnings
from typing import Any

import numpy as np

from input_pipeline import classification, preparation
from input_pipeline.documents import Documents
from trainer import chain, ngrams
from trainer.run import Run
from trainer.stages import decisions

_log = logging.getLogger(__name__)

# Inverse strengths of regularisation that are tried on validation.
STRENGTHS = (10.0, 30.0, 100.0)
# Key + scale + weights of an n-gram; the commonest are kept.
MAX_NGRAMS = 2**20
MAX_WEIGHTS = 2**23
# Below this many documents an n-gram counts although it occurs in one alone.
_FEW_DOCUMENTS = 2_000
# Validation documents are worth a second fit if they are such a share of the
# others.
_MANY = 0.1
# Of text without labels: tokens that are read, and n-grams that are kept, at
# most. Steps of a fit on it.
_MOST_TOKENS, _MOST_UNLABELLED_NGRAMS, _MOST_STEPS = 10_000_000, 2**19, 60
# Self-training: rounds at most, the strength, and what a labelled document
# counts beside one that was labelled by the round before.
_ROUNDS, _STUDENT_STRENGTH, _LABELLED_WEIGHT = 3, 1.0, 5.0
# Expectation maximisation: rounds, what a document without a label counts, what
# is added to each count, and the length of a document.
_EM_ROUNDS, _EM_WEIGHT, _EM_PRIOR, _EM_LENGTH = 8, 0.1, 0.1, 2.0
# With V of at most 2^21, three ids fit into a key of 63 bits.
MAX_VOCABULARY = 2**21


def run(run: Run) -> None:
    """Fits the n-grams of the labelled rows, once, and says how good they are.

    Nothing is done if `finetune.ngrams` is False, or the workdir has the
    n-grams of these rows.
    """
    rows, unlabelled = run.labelled_rows, None
    made_from = {"labelled rows": rows.fingerprint}
    facts = ngrams.read_facts(run.workdir)
    if run.has_few_labels:
        unlabelled = run.unlabelled_rows
    if unlabelled:
        made_from["unlabelled rows"] = unlabelled.fingerprint
    wanted = chain.Artifact.of("n-grams", run.config, made_from)
    if not run.config.finetune.ngrams or (
        "artifact" in facts
        and not chain.Artifact.read(facts, run.workdir).stale_because(wanted)
    ):
        return
    train, validation = (
        classification.documents(rows, run.config, role)
        for role in preparation.ROLES
    )
    if unlabelled:
        others = classification.documents(
            unlabelled,
            run.config,
            preparation.UNLABELLED,
            most_tokens=_MOST_TOKENS,
        )
    model, facts = fit(
        train,
        validation,
        is_special=rows.tokenizer.is_special,
        unlabelled=others if unlabelled else None,
        class_weights=decisions.class_weights(run.config.finetune, rows),
    )
    model.save(run.workdir, {**facts, **wanted.to_dict()})
    _log.info(
        "n-grams alone: validation %.1f %% of %s documents after %.0f s; this"
        " is the number to beat",
        100 * facts["accuracy"],
        f"{facts['validation_documents']:,}",
        facts["seconds"],
    )


def fit(
    train: Documents,
    validation: Documents,
    *,
    is_special: np.ndarray,
    class_weights: np.ndarray,
    unlabelled: Documents | None = None,
) -> tuple[ngrams.NGrams, dict[str, Any]]:
    """The model whose calibrated loss on validation is lowest, and its facts.

    Candidates are logistic regressions of several strengths and, where there
    is text without labels, two ways to learn from it: self-training, in which
    the best regression labels that text and the next one learns from all of
    it, and naive Bayes with expectation maximisation.

    Where the validation documents are many beside those of training, the
    winner is fitted once more, on both; the facts are of the one before.

    Needs memory of about 100 bytes a token of all documents.

    Args:
      train: labelled documents.
      validation: labelled documents.
      is_special: bool [V], see `ngrams.keys_of`.
      class_weights: float32 [C], what a document counts by its class, in
        training and validation.
      unlabelled: documents whose labels are not looked at; None where a
        document may have several.

    Raises:
      ValueError: V is too large for keys.
    """
    start = time.perf_counter()
    counted = ngrams.document_weights(class_weights, validation.labels)
    fitter = Fitter(train, unlabelled, is_special, class_weights)

    def judged(
        model: ngrams.NGrams, **recipe: Any
    ) -> tuple[ngrams.NGrams, dict[str, Any]]:
        """The model with its answers to validation, and how good these are."""
        features = ngrams.features(
            model,
            *validation[:3],
            is_special=is_special,
            num_documents=len(validation.labels),
        )
        found = ngrams.logits(model, features).numpy()
        weights, bias = ngrams.combine([found], validation.labels, counted)
        loss, accuracy = ngrams.measure(
            weights[0] * found + bias, validation.labels, counted
        )
        facts = {**recipe, "loss": loss, "accuracy": accuracy}
        return dataclasses.replace(model, validation=found), facts

    tried = [judged(fitter.regression(s), strength=s) for s in STRENGTHS]
    if unlabelled:
        model, facts = min(tried, key=lambda one: one[1]["loss"])
        for rounds in range(1, _ROUNDS + 1):
            model = fitter.student(model)
            recipe = {"strength": facts["strength"], "rounds": rounds}
            tried.append(judged(model, **recipe))
        tried.append(judged(fitter.naive_bayes(), naive_bayes=True))
    best, facts = min(tried, key=lambda one: one[1]["loss"])
    if len(validation.labels) > _MANY * len(train.labels):
        both = Documents.joined([train, validation])
        fitter = Fitter(both, unlabelled, is_special, class_weights)
        again = fitter.of_recipe(facts)
        best = dataclasses.replace(again, validation=best.validation)
    used = best.scales > 0
    used[0] |= not used.any()
    for name in ("keys", "scales", "coefficients"):
        best = dataclasses.replace(best, **{name: getattr(best, name)[used]})
    return best, {
        **facts,
        "ngrams": len(best.keys),
        "documents": len(train.labels),
        "unlabelled_documents": len(unlabelled.labels) if unlabelled else 0,
        "validation_documents": len(validation.labels),
        "seconds": round(time.perf_counter() - start, 1),
    }


class Fitter:
    """Makes models of documents, the first of which have labels.

    Attributes:
      keys: int64 [G], of the n-grams, at most `max_weights` / C.
      features: float32 [N, G], sparse: 1 where a document has the n-gram.
      labels: int32 [n], or bool [n, C].
      solvers: the logistic regressions of scikit-learn that fit them: one, or
        one a class where a document may have several.
    """

    def __init__(
        self,
        labelled: Documents,
        unlabelled: Documents | None,
        is_special: np.ndarray,
        class_weights: np.ndarray,
        *,
        max_weights: int = MAX_WEIGHTS,
    ):
        from sklearn import linear_model

        if len(is_special) > MAX_VOCABULARY:
            raise ValueError(
                f"The vocabulary has {len(is_special):,} tokens, but n-grams"
                f" take at most {MAX_VOCABULARY:,}; lower"
                " tokenizer.vocabulary_size, or leave the n-grams out with"
                " --config.finetune.ngrams=False."
            )
        every = [labelled, unlabelled] if unlabelled else [labelled]
        documents = Documents.joined(every)
        keys, owners, columns = _occurrences(documents, is_special)
        most = _MOST_UNLABELLED_NGRAMS if unlabelled else MAX_NGRAMS
        self.class_weights, self.num_classes = class_weights, len(class_weights)
        most = min(most, max(1, max_weights // self.num_classes))
        self.keys, self.features = _kept(
            keys, owners, columns, len(documents.labels), most
        )
        self.labels = labelled.labels
        self.vocabulary_size = len(is_special)
        # Most n-grams are rare, and their entries in the gradient of the mean
        # loss are small: scikit-learn's own tolerance, 1e-4, ends the fit too
        # early.
        self.solvers = [
            linear_model.LogisticRegression(
                max_iter=200, tol=1e-5, warm_start=True
            )
            for _ in range(self.num_classes if self.labels.ndim == 2 else 1)
        ]

    def of_recipe(self, facts: dict[str, Any]) -> ngrams.NGrams:
        """The kind of model that `fit` describes by these facts."""
        if "naive_bayes" in facts:
            return self.naive_bayes()
        model = self.regression(facts["strength"])
        for _ in range(facts.get("rounds", 0)):
            model = self.student(model)
        return model

    def regression(
        self, strength: float, weights: np.ndarray | None = None
    ) -> ngrams.NGrams:
        """Fitted on the labelled documents alone, float32 [n] weights."""
        if weights is None:
            weights = ngrams.document_weights(self.class_weights, self.labels)
        return self._regression(self.labels, weights, strength)

    def answers(self, model: ngrams.NGrams) -> np.ndarray:
        """What one of its models says to all documents, float32 [N, K]."""
        norms = np.sqrt(self.features @ np.square(model.scales))
        sums = self.features @ model.coefficients
        return sums / np.maximum(norms, 1e-9)[:, np.newaxis] + model.bias

    def student(self, teacher: ngrams.NGrams) -> ngrams.NGrams:
        """Fitted on all documents; the teacher labels those without a label.

        Labels are hard: with soft ones a student repeats its teacher.
        """
        labels = ngrams.by_class(self.answers(teacher)).argmax(axis=1)
        labels[: len(self.labels)] = self.labels
        weights = self.class_weights[labels]
        weights[: len(self.labels)] *= _LABELLED_WEIGHT
        self.solvers[0].set_params(max_iter=_MOST_STEPS)
        return self._regression(labels, weights, _STUDENT_STRENGTH)

    def naive_bayes(self) -> ngrams.NGrams:
        """Multinomial naive Bayes, also on text without labels.

        Expectation maximisation as in Nigam et al., "Text Classification from
        Labeled and Unlabeled Documents using EM", 2000: documents without a
        label count less. Besides, all documents have one length, so that long
        ones are not too sure of themselves; all classes have as many n-grams;
        and over all documents they are as frequent as among the labelled.
        Without those of three tokens, which depend too much on each other.
        """
        from scipy import special

        n, total = len(self.labels), self.features.shape[0]
        scales = (self.keys < self.vocabulary_size**2).astype(np.float32)
        norms = np.sqrt(np.maximum(self.features @ scales, 1))
        features = self.features.multiply(scales)
        features = features.multiply(_EM_LENGTH / norms[:, np.newaxis]).tocsr()
        known = np.eye(self.num_classes)[self.labels]
        frequencies = (known.sum(axis=0) + 1) / (n + self.num_classes)
        bias = np.log(frequencies)
        belief = np.zeros([total, self.num_classes])  # N, C
        for _ in range(_EM_ROUNDS):
            weights = _EM_WEIGHT * belief
            weights[:n] = known
            counts = features.T @ weights  # [G, C]
            # A class may have no n-gram that is common enough to count.
            sizes = np.maximum(counts.sum(axis=0), _EM_PRIOR)
            counts *= counts.sum() / self.num_classes / sizes
            logs = np.log(_EM_PRIOR + counts)
            logs -= logs.mean(axis=1, keepdims=True)
            answers = features @ logs
            for _ in range(20):
                belief = special.softmax(answers + bias, axis=1)
                bias += np.log(
                    frequencies / np.maximum(belief.mean(axis=0), 1e-9)
                )
        bias += np.log(self.class_weights)
        if self.num_classes == 2:
            logs, bias = logs[:, 1:] - logs[:, :1], bias[1:] - bias[:1]
        return ngrams.NGrams(
            self.keys,
            scales,
            (_EM_LENGTH * logs).astype(np.float32),
            bias.astype(np.float32),
        )

    def _regression(
        self, labels: np.ndarray, weights: np.ndarray, strength: float
    ) -> ngrams.NGrams:
        """Fitted on the first documents, as many as there are labels."""
        from sklearn import exceptions, preprocessing

        features = self.features[: len(labels)]
        scales = _scales(features, labels, weights, self.num_classes)
        scaled = preprocessing.normalize(features.multiply(scales).tocsr())
        coefficients, bias = [], []  # [K, G] and [K], in parts.
        targets = labels.T if labels.ndim == 2 else [labels]
        for solver, target in zip(self.solvers, targets, strict=True):
            number = int(np.count_nonzero(target))
            if labels.ndim == 2 and number in (0, len(target)):
                # The class of all documents, or of none: nothing to tell.
                odds = (number + 0.5) / (len(target) - number + 0.5)
                coefficients.append(np.zeros([1, len(self.keys)]))
                bias.append([np.log(odds)])
                continue
            solver.set_params(C=strength)
            with warnings.catch_warnings():
                # A strength that needs more steps is no better for them.
                warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
                solver.fit(scaled, target, weights)
            coefficients.append(solver.coef_)
            bias.append(solver.intercept_)
        weighed = np.concatenate(coefficients) * scales
        return ngrams.NGrams(
            self.keys,
            scales,
            weighed.T.astype(np.float32).copy(),
            np.concatenate(bias).astype(np.float32),
        )


def _occurrences(
    documents: Documents, is_special: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys, ascending; and which document [M] has which [M]."""
    found, places = ngrams.keys_of(
        documents.token_ids, documents.segments, is_special
    )
    keys, numbers = np.unique(found.numpy(), return_inverse=True)
    owners = documents.owners[places.numpy()].astype(np.int64)
    pairs = np.unique(owners * max(1, len(keys)) + numbers)
    return keys, *np.divmod(pairs, max(1, len(keys)))


def _kept(
    keys: np.ndarray,
    owners: np.ndarray,
    columns: np.ndarray,
    num_documents: int,
    most: int,
) -> tuple[np.ndarray, Any]:
    """The keys [G] that become features, and these, 0 or 1, sparse [N, G].

    The commonest, `most` at most.
    """
    from scipy import sparse

    counts = np.bincount(columns, minlength=len(keys))
    least = 1 if num_documents < _FEW_DOCUMENTS else 2
    # Equally frequent ones in the order of their keys.
    ranked = np.argsort(-counts, kind="stable")[:most]
    kept = np.sort(ranked[counts[ranked] >= least])
    place = np.full(len(keys), -1)
    place[kept] = np.arange(len(kept))
    columns = place[columns]
    owners, columns = owners[columns >= 0], columns[columns >= 0]
    if not len(kept):  # All words are unknown: what is left is the bias.
        keys, kept = np.array([-1]), np.array([0])
    ones = np.ones(len(owners), np.float32)
    shape = (num_documents, len(kept))
    features = sparse.csr_matrix((ones, (owners, columns)), shape)
    return keys[kept].astype(np.int64), features


def _scales(
    features: Any, labels: np.ndarray, weights: np.ndarray, num_classes: int
) -> np.ndarray:
    """float32 [G], see the module; 0 for n-grams of none of the documents."""
    has = labels.T  # [C, N]
    if labels.ndim == 1:
        has = labels == np.arange(num_classes)[:, np.newaxis]
    counts = np.stack([features[one].T @ weights[one] for one in has])  # [C, G]
    # A document may count in several rows, or in none.
    total = features.T @ weights if labels.ndim == 2 else counts.sum(axis=0)
    inside, outside = 1.0 + counts, 1.0 + total - counts
    inside /= inside.sum(axis=1, keepdims=True)
    outside /= outside.sum(axis=1, keepdims=True)
    ratios = np.abs(np.log(inside / outside)).max(axis=0)
    rarity = 1.0 + np.log((1 + weights.sum()) / (1 + total))
    return np.where(total, np.sqrt(ratios * rarity), 0).astype(np.float32)
