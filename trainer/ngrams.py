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
1 for two classes (that of the second), else C. Where a document may have
several labels, K is C: one logistic regression a class, with the same scales.
"""

import dataclasses
from typing import Any, NamedTuple, Self

import numpy as np
import safetensors.numpy
import tensorflow as tf

import storage

DIRECTORY = "ngrams"  # In the workdir.
MAX_LENGTH = 3
# Text without labels is learned from where fewer documents than this have one.
MOST_LABELLED = 10_000
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


def token_ids(key: int, vocabulary_size: int) -> list[int]:
    """The tokens of an n-gram: the digits of its key to the base V."""
    ids = []
    while key:
        key, last = divmod(key, vocabulary_size)
        ids.append(last)
    return ids[::-1]


class Features(NamedTuple):
    """The n-grams of N documents that a model knows: F of them, at O places.

    An n-gram of a document counts once, however often it stands there.

    Attributes:
      owner: int64 [F], the document.
      index: int64 [F], among the G n-grams of the model.
      norms: float32 [N], by which the scaled features of a document are
        divided, so that it has length 1.
      feature: int32 [O], which of the F stands there.
      places: int32 [O], of the first token.
      lengths: int32 [O], in tokens.
      num_tokens: int32 [], T.
    """

    owner: tf.Tensor
    index: tf.Tensor
    norms: tf.Tensor
    feature: tf.Tensor
    places: tf.Tensor
    lengths: tf.Tensor
    num_tokens: tf.Tensor


def features(
    model: Any,
    token_ids: tf.Tensor,
    segments: tf.Tensor,
    owners: tf.Tensor,
    *,
    is_special: np.ndarray,
    num_documents: tf.Tensor | int,
) -> Features:
    """Looks up the n-grams of documents, inside a graph or not.

    Args:
      model: `NGrams`, or a layer with tensors of those names.
      token_ids: int32 [T].
      segments: int32 [T], ascending.
      owners: int32 [T], the document of every token.
      is_special: bool [V].
      num_documents: N.
    """
    keys, places = keys_of(token_ids, segments, is_special)
    known = tf.convert_to_tensor(model.keys)
    index = tf.minimum(tf.searchsorted(known, keys), tf.size(known) - 1)
    is_known = tf.gather(known, index) == keys
    keys, places, index = (
        tf.boolean_mask(values, is_known) for values in (keys, places, index)
    )
    # Present or absent: each n-gram of a document once.
    size = tf.size(known, tf.int64)
    pairs, feature = tf.unique(
        tf.cast(tf.gather(owners, places), tf.int64) * size
        + tf.cast(index, size.dtype)
    )
    owner, index = pairs // size, pairs % size
    squares = tf.square(tf.gather(model.scales, index))
    # The first digit of a key is not 0: that is padding.
    lengths = tf.add_n(
        [
            tf.cast(keys >= len(is_special) ** n, tf.int32)
            for n in range(MAX_LENGTH)
        ]
    )
    return Features(
        owner,
        index,
        tf.sqrt(tf.math.unsorted_segment_sum(squares, owner, num_documents)),
        feature,
        places,
        lengths,
        tf.size(token_ids),
    )


def logits(model: Any, found: Features) -> tf.Tensor:
    """The answers of a model to the documents that have these features.

    Returns:
      float32 [N, K]; the bias alone for a document without a known n-gram.
    """
    sums = tf.math.unsorted_segment_sum(
        tf.gather(model.coefficients, found.index),
        found.owner,
        tf.size(found.norms),
    )
    return tf.math.divide_no_nan(sums, found.norms[:, tf.newaxis]) + model.bias


def contributions(
    model: Any, found: Features, directions: tf.Tensor
) -> tf.Tensor:
    """What every token adds to the answers of `logits`.

    What an n-gram adds is shared alike by the places where it stands and there
    by its tokens, so that nothing is lost: the sum over the tokens of a
    document is `directions` times its logits without the bias.

    Args:
      model: as for `features`.
      found: of N documents with T tokens.
      directions: float32 [N, K], what a logit of a document counts.

    Returns:
      float32 [T].
    """
    sums = tf.gather(model.coefficients, found.index) * tf.gather(
        directions, found.owner
    )
    weights = tf.math.divide_no_nan(
        tf.reduce_sum(sums, axis=1), tf.gather(found.norms, found.owner)
    )  # [F]
    times = tf.math.unsorted_segment_sum(
        tf.ones_like(found.places), found.feature, tf.size(weights)
    )
    shares = tf.gather(
        weights / tf.cast(times, tf.float32), found.feature
    ) / tf.cast(found.lengths, tf.float32)  # [O]
    return tf.add_n(
        [
            tf.math.unsorted_segment_sum(
                shares,
                tf.where(n < found.lengths, found.places + n, -1),
                found.num_tokens,
            )
            for n in range(MAX_LENGTH)
        ]
    )


def strongest(
    keys: np.ndarray, coefficients: np.ndarray, number: int
) -> list[list[int]]:
    """For each of C classes the n-grams that say most for it, the first most.

    Args:
      keys: int64 [G].
      coefficients: float [G, K]; of each, the mean over classes is taken off.
      number: how many of them.

    Returns:
      C lists of keys, without those that say nothing for the class.
    """
    weights = by_class(coefficients)
    weights = weights - weights.mean(axis=1, keepdims=True)
    order = np.argsort(-weights, axis=0, kind="stable")[:number]  # [number, C]
    return [
        [int(keys[g]) for g in column if weights[g, c] > 0]
        for c, column in enumerate(order.T)
    ]


def measure(
    found: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """Mean loss in nats and accuracy of logits [N, K]; 0 of no documents.

    `weights`, float [N], says what a document counts. Several labels, bool
    [N, C], have the sum of the losses of all classes and are right where all
    classes are.
    """
    if not len(labels):
        return 0.0, 0.0
    if labels.ndim == 2:
        is_right = ((found >= 0) == labels).all(axis=1)
    else:
        is_right = by_class(found).argmax(axis=1) == labels
    losses, _ = _losses(found.astype(np.float64), labels)
    loss, accuracy = (
        float(np.average(values, weights=weights))
        for values in (losses, is_right)
    )
    return loss, accuracy


def _losses(z: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of logits [N, K]: losses in nats [N] and their slopes [N, K]."""
    from scipy import special

    if labels.ndim == 2:
        losses = (np.logaddexp(0, z) - z * labels).sum(axis=1)
        return losses, special.expit(z) - labels
    width, z = z.shape[1], by_class(z)
    z -= np.logaddexp.reduce(z, axis=1, keepdims=True)
    wanted = labels[:, np.newaxis] == np.arange(z.shape[1])
    return -z[wanted], (np.exp(z) - wanted)[:, -width:]


def document_weights(
    class_weights: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """What each document counts, [N]: alike where it may have several labels.

    Args:
      class_weights: float32 [C].
      labels: int [N], or bool [N, C].
    """
    if labels.ndim == 2:
        return np.ones(len(labels), np.float32)
    return class_weights[labels]


def combine(
    parts: list[np.ndarray], labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [P] and bias [K] that make one calibrated answer of P parts.

    The logits of a document become the weighted sum of the parts' logits plus
    the bias. Fitted by the likelihood of `labels`, with a prior that matters
    only where documents are few; no part gets a negative weight.

    Args:
      parts: logits, float [N, K] each.
      labels: int [N], or bool [N, C] where there may be several.
      weights: float [N], what a document counts.
    """
    from scipy import optimize

    number, width = len(parts), parts[0].shape[1]
    middle = np.full(number, 1 / number)
    stacked = np.stack(parts).astype(np.float64)  # [P, N, K]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        shares, bias = values[:number], values[number:]
        z = np.tensordot(shares, stacked, 1) + bias
        losses, slopes = _losses(z, labels)
        error = weights[:, np.newaxis] * slopes  # [N, K]
        away = shares - middle
        total = (
            weights @ losses
            + (_PRIOR_WEIGHT * away @ away + _PRIOR_BIAS * bias @ bias) / 2
        )
        by_part = np.einsum("pnk,nk->p", stacked, error) + _PRIOR_WEIGHT * away
        return total, np.concatenate(
            [by_part, error.sum(axis=0) + _PRIOR_BIAS * bias]
        )

    found = optimize.minimize(
        loss,
        np.concatenate([middle, np.zeros(width)]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * number + [(None, None)] * width,
    ).x.astype(np.float32)
    return found[:number], found[number:]


def by_class(found: np.ndarray) -> np.ndarray:
    """Logits [N, K] as [N, C]: of two classes the first has logit 0."""
    if found.shape[1] > 1:
        return found.copy()
    return np.concatenate([np.zeros_like(found), found], axis=1)
