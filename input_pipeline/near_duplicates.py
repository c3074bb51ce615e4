"""Documents that are nearly the same: one word changed, a sentence added.

Two texts are nearly the same if they share four of five of their distinct
words, both taken together (their Jaccard similarity), and have some words to
speak of: where one word of a short phrase is another, so is what it says. The
similarity is estimated by MinHash (Broder, "On the resemblance and containment
of documents", 1997), of whose values a byte each is kept (Li and Koenig, "b-bit
minwise hashing", 2010), and only for texts with an equal band of them, which
those that are alike have almost surely. Everything depends on the texts alone.

N texts, 192 values of each.
"""

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np

from input_pipeline import documents
from input_pipeline import roles as roles_lib

# Distinct words of a text that is compared.
_FEWEST_WORDS = 8
# Estimates spread by 0.03: this finds nearly all that share four of five.
_SIMILARITY = 0.78
# A band of 8 bytes is one number of 64 bits. Of texts that share four of five
# words, 99 % have an equal band; of those that share a quarter, one in 2,700.
_BANDS, _BAND_BYTES = 24, 8
_BYTES = _BANDS * _BAND_BYTES
# Texts of a band that each one is compared with: a template has many.
_NEIGHBOURS = 8
# A group may have so many texts, or such a share of all. A larger one is a
# chain of neighbours whose ends differ, or a template: on one side of a split
# it would be most of that side.
_LARGEST, _LARGEST_SHARE = 20, 0.01
_PAIRS_AT_ONCE = 2**16
MOST_TEXTS = 2**21  # In memory, where each takes about 400 bytes.


class Found(NamedTuple):
    """Groups of texts that are nearly the same.

    Attributes:
      groups: the mark of a text -> a mark for its group; only of texts in one.
      num_groups: how many there are.
      too_large: texts of groups that are too large to be kept together.
      skipped: texts that were not compared, because there are too many; those
        that are not decisive are the first to be left out.
    """

    groups: dict[int, int] = {}
    num_groups: int = 0
    too_large: int = 0
    skipped: int = 0


def signature(text: str) -> bytes:
    """192 bytes that are alike for texts that are; b"" if it is too short."""
    known = documents.normalised(text)
    words = {
        *(known.split() if known.isascii() else documents.WORD.findall(known))
    }
    if len(words) < _FEWEST_WORDS:
        return b""
    found = _empty().copy()
    found.update_batch([word.encode() for word in words])
    return bytes(found.hashvalues.astype(np.uint8))


@functools.cache
def _empty() -> Any:
    from datasketch import MinHash  # Takes half a second to import.

    return MinHash(
        num_perm=_BYTES, seed=1, hashfunc=zlib.crc32, scheme="affine32"
    )


def find(
    marks: np.ndarray, signatures: np.ndarray, decisive: np.ndarray
) -> Found:
    """The groups of texts that are nearly the same, each with a decisive one.

    Args:
      marks: uint64 [N], what the texts are known by; some may repeat.
      signatures: uint8 [N * 192].
      decisive: bool [N], texts that have a label or are held out. Two others
        are not compared.
    """
    from scipy import sparse

    _, every = np.unique(marks, return_index=True)
    used = every
    if len(used) > MOST_TEXTS:
        used = used[decisive[used]]
    if len(used) > MOST_TEXTS:
        return Found(skipped=len(every))
    marks, decisive = marks[used], decisive[used]
    signatures = signatures.reshape(-1, _BYTES)
    group = np.arange(len(marks))
    for number in range(_BANDS):
        band = signatures.view(np.uint64)[used, number]
        pairs = group[_alike(signatures, used, decisive, band, group)]
        graph = sparse.coo_matrix(
            (np.ones(len(pairs), bool), pairs.T), [len(marks)] * 2
        )
        _, joined = sparse.csgraph.connected_components(graph, directed=False)
        group = joined[group]
    largest = max(_LARGEST, round(_LARGEST_SHARE * decisive.sum()))
    sizes = np.bincount(group)
    is_large = np.bincount(group, weights=decisive) > largest
    kept = np.flatnonzero((sizes[group] > 1) & ~is_large[group])
    groups = dict[int, int]()
    names = dict[int, int]()  # By the lowest mark.
    for number, mark in zip(group[kept], marks[kept].tolist(), strict=True):
        if number not in names:
            names[number] = roles_lib.marks("", f"nearly {mark}")[1]
        groups[mark] = names[number]
    return Found(
        groups=groups,
        num_groups=len(names),
        too_large=int(sizes[is_large].sum()),
        skipped=len(every) - len(used),
    )


def _alike(
    signatures: np.ndarray,
    used: np.ndarray,
    decisive: np.ndarray,
    band: np.ndarray,
    group: np.ndarray,
) -> np.ndarray:
    """Pairs, int64 [M, 2], that are alike among those with an equal band.

    Those that are in one group already are left out. The signature of text n
    is that in row `used[n]`: a copy of all in this order would be large.
    """
    order = np.argsort(band, kind="stable")
    band, found = band[order], []
    for step in range(1, _NEIGHBOURS + 1):
        same = np.flatnonzero(band[step:] == band[:-step])
        for start in range(0, len(same), _PAIRS_AT_ONCE):
            part = same[start : start + _PAIRS_AT_ONCE]
            pairs = np.stack([order[part], order[part + step]], axis=1)
            is_new = group[pairs[:, 0]] != group[pairs[:, 1]]
            pairs = pairs[is_new & decisive[pairs].any(axis=1)]
            one, other = signatures[used[pairs.T]]
            found.append(pairs[(one == other).mean(axis=1) >= _SIMILARITY])
    return np.concatenate([np.zeros([0, 2], np.int64), *found])
