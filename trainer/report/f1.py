"""F1 of one, several and all classes, and how it varies from text to text.

N documents, C classes, P different pairs of label and answer, R resamples.
"""

from typing import Any

import numpy as np

_AT_ONCE = 4_000_000  # Resampled pairs in memory.


def _one_hot(classes: np.ndarray, num_classes: int) -> Any:
    """Sparse, float [P, C]."""
    from scipy import sparse

    ones = np.ones(len(classes))
    places = (ones, classes, np.arange(len(classes) + 1))
    return sparse.csr_array(places, shape=(len(classes), num_classes))


def distinct(
    labels: np.ndarray, answers: np.ndarray, num_classes: int
) -> tuple[Any, Any, np.ndarray]:
    """The P different pairs of label and answer.

    Args:
      labels: int [N], or bool [N, C] where a document may have several.
      answers: likewise.
      num_classes: C.

    Returns:
      Which classes each pair has as labels and as answers, sparse float [P, C]
      each, and how many documents it has, int [P].
    """
    from scipy import sparse

    if labels.ndim == 1:
        pairs, counts = np.unique(
            labels * num_classes + answers, return_counts=True
        )
        labelled, answered = (
            _one_hot(of, num_classes) for of in np.divmod(pairs, num_classes)
        )
        return labelled, answered, counts

    both, counts = np.unique(
        np.concatenate([labels, answers], axis=1), axis=0, return_counts=True
    )
    labelled, answered = np.split(both.astype(float), 2, axis=1)
    return sparse.csr_array(labelled), sparse.csr_array(answered), counts


def resampled(
    counts: np.ndarray,
    labelled: Any,
    answered: Any,
    *,
    number: int,
    seed: int,
) -> np.ndarray:
    """`scores` of R = `number` resamples, float [R, C + 3].

    The scores depend on the counts of the pairs of label and answer alone, and
    those of a resample have a multinomial distribution.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // len(counts))
    total = counts.sum()
    found = []
    for start in range(0, number, at_once):
        size = min(at_once, number - start)
        drawn = rng.multinomial(total, counts / total, size=size)
        found.append(scores(drawn, labelled, answered))
    return np.concatenate(found)


def scores(counts: np.ndarray, labelled: Any, answered: Any) -> np.ndarray:
    """F1 by class, their mean, F1 of all, and the mean recall: [..., C + 3].

    Args:
      counts: [..., P], documents of each pair of label and answer.
      labelled: sparse [P, C], which classes each pair has as labels.
      answered: likewise.
    """
    label, answer, right = (
        counts @ of for of in (labelled, answered, labelled.multiply(answered))
    )  # [..., C]
    f1 = 2 * right / np.maximum(label + answer, 1)
    total = np.maximum((label + answer).sum(axis=-1), 1)
    macro_f1, balanced = (
        score.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)
        for score, occurs in (
            (f1, label + answer > 0),
            (right / np.maximum(label, 1), label > 0),
        )
    )
    means = [macro_f1, 2 * right.sum(axis=-1) / total, balanced]
    return np.concatenate([f1, np.stack(means, axis=-1)], axis=-1)
