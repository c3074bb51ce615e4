"""Passes over the documents of a source, on all cores.

The work is cut into units that do not depend on the number of processes, and
results come back in order.
"""

import array
import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import process
from typing import Any, NamedTuple, TypeVar

from configs import quiet, schema
from input_pipeline import cleaning, sources
from input_pipeline import roles as roles_lib

# `map`, over processes or not.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]

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


@contextlib.contextmanager
def pool(module: str, num_processes: int, num_units: int) -> Iterator[Map]:
    """Yields a `map` over processes; each imports `module` when it starts."""
    wanted = num_processes or os.cpu_count() or 1
    wanted = min(wanted, num_units)
    if wanted <= 1:
        yield map
        return
    with process.ProcessPoolExecutor(
        wanted,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=quiet.start_worker,
        initargs=(module,),
    ) as executor:
        try:
            yield executor.map
        except process.BrokenProcessPool as error:
            raise ValueError(
                "A process that prepares the text was killed, most likely for"
                " want of memory; try --config.data.num_processes=1."
            ) from error
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


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
    marked = Marked(array.array("Q"), array.array("Q"), [])
    counts, groups = cleaning.Counts(), set[str]()
    for raw, label, group in sources.read(data, unit, counts):
        if text := cleaning.clean(raw, counts):
            mark, decisive = roles_lib.marks(text, group)
            marked.texts.append(mark)
            marked.decisive.append(decisive)
            marked.labels.append(sys.intern(label))
            if group and len(groups) < 2:
                groups.add(group)
    return marked, frozenset(groups)


def in_batches(items: Iterable[_T], limit: int = 0) -> Iterator[list[_T]]:
    """Lists of neighbours; of the first `limit` items, or of all (0)."""
    batch: list[_T] = []
    for number, item in enumerate(items, start=1):
        batch.append(item)
        if len(batch) == _DOCUMENTS_AT_ONCE or number == limit:
            yield batch
            batch = []
        if number == limit:
            return
    if batch:
        yield batch
