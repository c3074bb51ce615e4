"""A linear model of n-grams: what every encoder has to beat, and its partner.

The features are 1- to 3-grams of the model's own tokens, present or absent.
Each is scaled by the geometric mean of its largest naive-Bayes log-count ratio
(Wang and Manning, "Baselines and Bigrams", 2012) and its inverse document
frequency; every document then has length 1, and logistic regression does the
rest. On four corpora this scale was at least as good as either factor alone
(docs/quality.md).

An n-gram is known by its key, the number whose digits to the base V are its
token ids. So keys never collide, are the same on every machine, and can be
read back. T tokens, N documents, G n-grams, C classes, K logits of a document:
1 for two classes (that of the second), else C.
"""

import dataclasses
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import safetensors.numpy
import tensorflow as tf

import storage
from input_pipeline.documents import Documents

DIRECTORY = "ngrams"  # In the workdir.
MAX_LENGTH = 3
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
# With V of at most 2^21, three ids fit into a key of 63 bits.
_MAX_VOCABULARY = 2**21
# What a fit knows before it sees a document, in documents: the parts count
# alike, no class is favoured.
_PRIOR_WEIGHT, _PRIOR_BIAS = 1.0, 4.0
_FILE = "ngrams.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class NGrams:
    """A fitted model.

    Attributes:
      keys: int64 [G], ascending.
      scales: float32 [G], of the features.
      coefficients: float32 [G, K], of the scaled features of a document.
      bias: float32 [K].
      validation: float32 [Nv, K], the answers to the validation documents of a
        model that was not fitted on them.
    """

    keys: np.ndarray
    scales: np.ndarray
    coefficients: np.ndarray
    bias: np.ndarray
    validation: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros([0, 1], np.float32)
    )

    def save(self, workdir: str, facts: dict[str, Any]) -> None:
        """Writes `<workdir>/ngrams`, which replaces an older one."""
        directory = storage.path_of(workdir) / DIRECTORY
        storage.remove_unfinished(workdir, DIRECTORY)
        with storage.new_directory(
            directory, facts=facts, replace=True
        ) as temporary:
            safetensors.numpy.save_file(
                dataclasses.asdict(self), temporary / _FILE
            )

    @classmethod
    def load(cls, workdir: str) -> Self:
        """What `save` wrote; raises DamagedError."""
        directory = storage.path_of(workdir) / DIRECTORY
        storage.verify(directory)
        return cls(**safetensors.numpy.load((directory / _FILE).read_bytes()))


def read_facts(workdir: str) -> dict[str, Any]:
    """The facts that `NGrams.save` was given; {} if there are none."""
    directory = storage.path_of(workdir) / DIRECTORY
    try:
        return storage.read_manifest(directory)
    except storage.DamagedError:
        return {}


def keys_of(
    token_ids: tf.Tensor, segments: tf.Tensor, is_special: np.ndarray
) -> tuple[tf.Tensor, tf.Tensor]:
    """Every n-gram of a run of tokens, repeated ones too.

    Args:
      token_ids: int32 [T].
      segments: int32 [T], ascending; no n-gram crosses from one to the next.
      is_special: bool [V]; no n-gram holds such a token, unknown ones included.

    Returns:
      The keys, int64 [M], and the place of the first token of each, int32 [M].
    """
    ids = tf.cast(token_ids, tf.int64)
    good = ~tf.gather(is_special, token_ids)
    run, keys, found = good, ids, []
    for length in range(1, MAX_LENGTH + 1):
        if length > 1:
            last = length - 1
            same = segments[last:] == segments[: tf.size(segments) - last]
            run = run[:-1] & good[last:] & same
            keys = keys[:-1] * len(is_special) + ids[last:]
        places = tf.cast(tf.where(run)[:, 0], tf.int32)
        found.append((tf.gather(keys, places), places))
    all_keys, all_places = zip(*found, strict=True)
    return tf.concat(all_keys, axis=0), tf.concat(all_places, axis=0)


def logits(
    model: Any,
    token_ids: tf.Tensor,
    segments: tf.Tensor,
    owners: tf.Tensor,
    *,
    is_special: np.ndarray,
    num_documents: tf.Tensor | int,
) -> tf.Tensor:
    """The answers of a model, inside a graph or not.

    Args:
      model: `NGrams`, or a layer with tensors of those names.
      token_ids: int32 [T].
      segments: int32 [T], ascending.
      owners: int32 [T], the document of every token.
      is_special: bool [V].
      num_documents: N.

    Returns:
      float32 [N, K]; the bias alone for a document without a known n-gram.
    """
    keys, places = keys_of(token_ids, segments, is_special)
    known = tf.convert_to_tensor(model.keys)
    index = tf.minimum(tf.searchsorted(known, keys), tf.size(known) - 1)
    is_known = tf.gather(known, index) == keys
    owner = tf.boolean_mask(tf.gather(owners, places), is_known)
    index = tf.boolean_mask(index, is_known)
    # Present or absent: each n-gram of a document once.
    size = tf.size(known, tf.int64)
    pairs, _ = tf.unique(
        tf.cast(owner, tf.int64) * size + tf.cast(index, size.dtype)
    )
    owner, index = pairs // size, pairs % size
    squares = tf.square(tf.gather(model.scales, index))
    norms = tf.sqrt(tf.math.unsorted_segment_sum(squares, owner, num_documents))
    sums = tf.math.unsorted_segment_sum(
        tf.gather(model.coefficients, index), owner, num_documents
    )
    return tf.math.divide_no_nan(sums, norms[:, tf.newaxis]) + model.bias


def fit(
    train: Documents,
    validation: Documents,
    *,
    is_special: np.ndarray,
    num_classes: int,
) -> tuple[NGrams, dict[str, Any]]:
    """The model with the strength that validates best, and facts about it.

    Where the validation documents are many beside those of training, the model
    is fitted once more with that strength, on both; the facts are of the one
    before.

    Needs memory of about 100 bytes a token of the training documents.

    Raises:
      ValueError: V is too large for keys.
    """
    if len(is_special) > _MAX_VOCABULARY:
        raise ValueError(
            f"The vocabulary has {len(is_special):,} tokens, but n-grams take"
            f" at most {_MAX_VOCABULARY:,}; lower tokenizer.vocabulary_size, or"
            " leave the n-grams out with --config.finetune.ngrams=False."
        )
    start = time.perf_counter()
    best, least, report = None, np.inf, dict[str, Any]()
    for strength, model in _fitted(train, STRENGTHS, is_special, num_classes):
        found = logits(
            model,
            *validation[:3],
            is_special=is_special,
            num_documents=len(validation.labels),
        ).numpy()
        loss, accuracy = measure(found, validation.labels)
        if best is None or loss < least:
            best = dataclasses.replace(model, validation=found)
            least = loss
            report = {"strength": strength, "loss": loss, "accuracy": accuracy}
    assert best is not None
    if len(validation.labels) > _MANY * len(train.labels):
        together = Documents.joined([train, validation])
        strengths = [report["strength"]]
        for _, model in _fitted(together, strengths, is_special, num_classes):
            best = dataclasses.replace(model, validation=best.validation)
    return best, {
        **report,
        "ngrams": len(best.keys),
        "documents": len(train.labels),
        "validation_documents": len(validation.labels),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _fitted(
    documents: Documents,
    strengths: Sequence[float],
    is_special: np.ndarray,
    num_classes: int,
) -> Iterator[tuple[float, NGrams]]:
    """A model for every strength."""
    from sklearn import exceptions, linear_model, preprocessing

    keys, owners, columns = _occurrences(documents, is_special)
    keys, features = _kept(keys, owners, columns, documents, num_classes)
    scales = _scales(features, documents.labels, num_classes)
    features = preprocessing.normalize(features.multiply(scales).tocsr())
    # Most n-grams are rare, and their entries in the gradient of the mean loss
    # are small: scikit-learn's own tolerance, 1e-4, ends the fit too early.
    fitted = linear_model.LogisticRegression(
        max_iter=200, tol=1e-5, warm_start=True
    )
    for strength in strengths:
        fitted.set_params(C=strength)
        with warnings.catch_warnings():
            # A strength that needs more steps is no better for them.
            warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
            fitted.fit(features, documents.labels)
        model = NGrams(
            keys,
            scales,
            (fitted.coef_ * scales).T.astype(np.float32).copy(),
            fitted.intercept_.astype(np.float32),
        )
        yield strength, model


def measure(found: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean loss in nats and accuracy of logits [N, K]; 0 of no documents."""
    if not len(labels):
        return 0.0, 0.0
    z = _by_class(found.astype(np.float64))
    z -= np.logaddexp.reduce(z, axis=1, keepdims=True)
    loss = -z[np.arange(len(labels)), labels].mean()
    return float(loss), float((z.argmax(axis=1) == labels).mean())


def combine(
    parts: list[np.ndarray], labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [P] and bias [K] that make one calibrated answer of P parts.

    The logits of a document become the weighted sum of the parts' logits plus
    the bias. Fitted by the likelihood of `labels`, with a prior that matters
    only where documents are few; no part gets a negative weight.

    Args:
      parts: logits, float [N, K] each.
      labels: int [N].
    """
    from scipy import optimize

    number, width = len(parts), parts[0].shape[1]
    middle = np.full(number, 1 / number)
    stacked = np.stack(parts).astype(np.float64)  # [P, N, K]
    wanted = labels[:, np.newaxis] == np.arange(max(width, 2))

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = values[:number], values[number:]
        z = _by_class(np.tensordot(weights, stacked, 1) + bias)
        z -= np.logaddexp.reduce(z, axis=1, keepdims=True)
        error = (np.exp(z) - wanted)[:, -width:]  # [N, K]
        away = weights - middle
        total = (
            -z[wanted].sum()
            + (_PRIOR_WEIGHT * away @ away + _PRIOR_BIAS * bias @ bias) / 2
        )
        slopes = np.einsum("pnk,nk->p", stacked, error) + _PRIOR_WEIGHT * away
        return total, np.concatenate(
            [slopes, error.sum(axis=0) + _PRIOR_BIAS * bias]
        )

    found = optimize.minimize(
        loss,
        np.concatenate([middle, np.zeros(width)]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * number + [(None, None)] * width,
    ).x.astype(np.float32)
    return found[:number], found[number:]


def _by_class(found: np.ndarray) -> np.ndarray:
    """Logits [N, K] as [N, C]: of two classes the first has logit 0."""
    if found.shape[1] > 1:
        return found.copy()
    return np.concatenate([np.zeros_like(found), found], axis=1)


def _occurrences(
    documents: Documents, is_special: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys, ascending; and which document [M] has which [M]."""
    found, places = keys_of(documents.token_ids, documents.segments, is_special)
    keys, numbers = np.unique(found.numpy(), return_inverse=True)
    owners = documents.owners[places.numpy()].astype(np.int64)
    pairs = np.unique(owners * max(1, len(keys)) + numbers)
    return keys, *np.divmod(pairs, max(1, len(keys)))


def _kept(
    keys: np.ndarray,
    owners: np.ndarray,
    columns: np.ndarray,
    documents: Documents,
    num_classes: int,
) -> tuple[np.ndarray, Any]:
    """The keys [G] that become features, and these, 0 or 1, sparse [N, G]."""
    from scipy import sparse

    counts = np.bincount(columns, minlength=len(keys))
    least = 1 if len(documents.labels) < _FEW_DOCUMENTS else 2
    most = min(MAX_NGRAMS, max(1, MAX_WEIGHTS // num_classes))
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
    shape = (len(documents.labels), len(kept))
    features = sparse.csr_matrix((ones, (owners, columns)), shape)
    return keys[kept].astype(np.int64), features


def _scales(features: Any, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """float32 [G], see the module."""
    counts = np.stack(
        [
            np.asarray(features[labels == label].sum(axis=0))[0]
            for label in range(num_classes)
        ]
    )  # [C, G]
    total = counts.sum(axis=0)
    inside, outside = 1.0 + counts, 1.0 + total - counts
    inside /= inside.sum(axis=1, keepdims=True)
    outside /= outside.sum(axis=1, keepdims=True)
    ratios = np.abs(np.log(inside / outside)).max(axis=0)
    rarity = 1.0 + np.log((1 + features.shape[0]) / (1 + total))
    return np.sqrt(ratios * rarity).astype(np.float32)
