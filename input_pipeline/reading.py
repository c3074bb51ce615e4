"""Passes over the documents of a source, on all cores.

The work is cut into units that do not depend on the number of processes, and
results come back in order.
"""

import array
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from configs import schema
from input_pipeline import cleaning, near_duplicates, sources
from input_pipeline import roles as roles_lib

_T = TypeVar("_T")
_DOCUMENTS_AT_ONCE = 512


class CleanDocument(NamedTuple):
    """A document after cleaning; the role is "empty" if nothing is left."""

    role: str
    text: str
    label: str


class Marked(NamedTuple):
    """The documents of a unit that are not empty, as `roles.marks` says."""

    texts: "array.array[int]"
    decisive: "array.array[int]"
    labels: list[str]
    # Of those that may have near-duplicates: their texts, and 192 bytes each.
    compared: "array.array[int]"
    signatures: bytearray


def documents(
    config: schema.Config,
    unit: sources.Unit,
    roles: roles_lib.Roles,
    counts: cleaning.Counts,
) -> Iterator[CleanDocument]:
    """Every document of a unit, cleaned, in order."""
    for document in sources.read(config.data, unit, counts):
        text = cleaning.clean(document.raw, counts)
        role = "empty"
        if text:
            role = roles.of(text, unit.split, document.label, document.group)
        yield CleanDocument(role, text, document.label)


def look(
    data: schema.DataConfig, unit: sources.Unit
) -> tuple[Marked, frozenset[str]]:
    """What documents of a unit are known by, and the first two groups."""
    marked = Marked(
        array.array("Q"), array.array("Q"), [], array.array("Q"), bytearray()
    )
    counts, groups = cleaning.Counts(), set[str]()
    for raw, label, group in sources.read(data, unit, counts):
        if text := cleaning.clean(raw, counts):
            mark, decisive = roles_lib.marks(text, group)
            marked.texts.append(mark)
            marked.decisive.append(decisive)
            marked.labels.append(sys.intern(label))
            if data.near_duplicates:
                found = near_duplicates.signature(text)
                marked.signatures.extend(found)
                marked.compared.extend([mark] * bool(found))
            if group and len(groups) < 2:
                groups.add(group)
    return marked, frozenset(groups)


def in_batches(items: Iterable[_T], limit: int = 0) -> Iterator[list[_T]]:
    """Lists of neighbours; of the first `limit` items, or of all (0)."""
    rest = itertools.islice(items, limit or None)
    while batch := [*itertools.islice(rest, _DOCUMENTS_AT_ONCE)]:
        yield batch
