"""Several labels of a document, as one string.

A set of names is a JSON list in the order of the names, none of them twice:
'["anger", "joy"]'. "[]" has been labelled, with no class at all; a document
without a label has "".
"""

import functools
import json
from collections.abc import Iterable, Sequence

import numpy as np


def joined(names: Iterable[str]) -> str:
    """The names as a label."""
    return json.dumps(sorted({*names}), ensure_ascii=False)


@functools.lru_cache(2**16)
def split(label: str) -> tuple[str, ...]:
    """The names of a label; the inverse of `joined`."""
    return tuple(json.loads(label))


def is_one(label: str) -> bool:
    """Whether it is a label from `joined`."""
    if not label.startswith("["):
        return False
    try:
        names = split(label)
    except (ValueError, RecursionError):  # A name like any other.
        return False
    return all(isinstance(n, str) for n in names) and joined(names) == label


def of_classes(
    names: Sequence[str], sets: Iterable[Iterable[int]]
) -> list[str]:
    """The label of each set of classes, which are given by number."""
    return [joined(names[c] for c in classes) for classes in sets]


def named(labels: np.ndarray, names: Sequence[str]) -> list[str]:
    """The labels of N documents, from int [N], or from sets, bool [N, C]."""
    if labels.ndim == 1:
        return [names[c] for c in labels]
    return of_classes(names, map(np.flatnonzero, labels))
