"""What must be known of all documents before one of them has a role.

Whether the text has labels, how many, and what occurs in two splits: a
function of the text alone, found once a corpus and stored beside its rows.
"""

import array
import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

import storage
from configs import schema
from input_pipeline import (
    label_sets,
    manifest,
    near_duplicates,
    processes,
    reading,
    sources,
)
from input_pipeline import roles as roles_lib

# Set aside by hash where the source brings no test split of its own.
_TEST_RATE = 0.1
# Of the labelled documents: so many validate if that is a share in between.
_VALIDATION_DOCUMENTS = 200
_LOWEST_RATE, _HIGHEST_RATE = 0.05, 0.2

# Any other label field was named, and pretraining without it takes hours.
_NEED_NOT_BE = ("", schema.DataConfig.label_field)

_Seen = dict[str, list[reading.Marked]]  # By split.


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found, and the roles that follow from it."""

    roles: roles_lib.Roles
    labels: dict[str, dict[str, int]]  # Documents by role and label.
    kept_labels: list[str]  # Classes that the hash left without training.
    without_label: int  # Documents among those with labels.
    multilabel: bool = False  # Whether labels are sets, see `label_sets`.
    # `near_duplicates.Found` in numbers, and of the texts that repeat, exactly
    # or nearly, those with several labels.
    near_duplicates: dict[str, int] = dataclasses.field(default_factory=dict)

    def classes(self, data: schema.DataConfig, *, largest: int) -> list[str]:
        """The names of the classes: numbers by value, then other names.

        Raises:
          ValueError: there is only one class, a class that no training
            document has, or more than `largest` classes.
        """
        field = f"data.label_field={data.label_field!r}"
        train = self.by_class("train")
        unseen = sorted(
            set().union(*map(self.by_class, self.labels)) - {*train}
        )
        if unseen:
            where = data.validation_path or "those set aside"
            raise ValueError(
                f"{field}: {', '.join(map(repr, unseen[:5]))} occurs in no"
                f" training document, but in {where}, so it could not be"
                " learned; known are"
                f" {', '.join(map(repr, sorted(train)[:20]))}. Correct it, give"
                " more documents of it, or leave it out."
            )
        if len(train) < 2:
            only = ", ".join(map(repr, train)) or "none"
            raise ValueError(
                f"{field} has one value in the training documents ({only}); a"
                " classifier needs at least two."
            )
        if self.multilabel:
            number = len({*self.labels["train"], *self.labels["validation"]})
            if number > largest:
                raise ValueError(
                    f"{field} has {number:,} combinations of labels; at most"
                    f" {largest:,} can be stored. Leave rare labels out."
                )
        if len(train) > largest:
            raise ValueError(
                f"{field} has {len(train):,} values; at most {largest:,}"
                " classes can be stored. Is it really a label?"
            )
        return sorted(train, key=_natural)

    def by_class(self, role: str) -> dict[str, int]:
        """The documents of a role that have each class; a sum of `labels`."""
        found = collections.Counter[str]()
        for label, number in self.labels[role].items():
            for name in _names(label, self.multilabel):
                found[name] += number
        return dict(found)

    def sets(self, classes: Sequence[str]) -> list[list[int]]:
        """The classes, by number, of every label of training and validation.

        [] where a document has one label.
        """
        if not self.multilabel:
            return []
        number = {name: index for index, name in enumerate(classes)}
        return sorted(
            sorted(number[name] for name in label_sets.split(label))
            for label in {*self.labels["train"], *self.labels["validation"]}
        )


def of(
    data: schema.DataConfig,
    units: Sequence[sources.Unit],
    *,
    keep: bool = True,
    sha256: Callable[[str], str] = storage.sha256_file,
) -> Survey:
    """The survey of all units of a source, made if it is missing.

    A test split of TFDS is not read. A new survey is stored if `keep` is set.

    Raises:
      ValueError: the source cannot be read, no document has the
        `data.label_field` that was named, or `data.group_field` is missing or
        constant.
    """
    splits = {unit.split for unit in units}
    if data.source == "text" and splits == {"train"}:
        return _conclude(data, {}, _Compared(), own_test=False)
    own_test = "test" in splits
    read = [unit for unit in units if unit.split != "test" or data.test_path]
    identity = {
        "format": manifest.FORMAT,
        "purpose": "survey",
        "source": sources.fingerprint(data, read, sha256=sha256),
        "own_test": own_test,
        "text_field": data.text_field,
        "document": data.document,
        "label_field": data.label_field,
        "group_field": data.group_field,
        "near_duplicates": data.near_duplicates,
        "validation_rate": data.validation_rate,
    }
    directory = manifest.directory_of(data.prepared_dir, identity)
    if not storage.complete(directory.parent, directory.name):
        made = _conclude(data, *_look(data, read), own_test=own_test)
        if not keep:
            return made
        facts = {"survey": {**vars(made), "roles": made.roles.to_dict()}}
        manifest.made_once(data.prepared_dir, identity, lambda _: facts)
    found = storage.read_manifest(directory)["survey"]
    return Survey(
        **{**found, "roles": roles_lib.Roles.from_dict(found["roles"])}
    )


def _natural(label: str) -> tuple[bool, float, str]:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    is_number = math.isfinite(number)
    return not is_number, number if is_number else 0.0, label


@dataclasses.dataclass
class _Compared:
    """The texts that may have near-duplicates, for `near_duplicates.find`.

    Their signatures are most of what a survey keeps in memory, so that they are
    kept once.
    """

    marks: "array.array[int]" = dataclasses.field(
        default_factory=functools.partial(array.array, "Q")
    )
    signatures: bytearray = dataclasses.field(default_factory=bytearray)
    skipped: int = 0  # Texts that are left out because there are too many.


def _look(
    data: schema.DataConfig, units: list[sources.Unit]
) -> tuple[_Seen, _Compared]:
    seen: _Seen = collections.defaultdict(list)
    compared = _Compared()
    groups: set[str] = set()
    task = functools.partial(reading.look, data)
    with processes.pool(
        reading.__name__, data.num_processes, len(units)
    ) as run:
        for unit, (marked, some_groups) in zip(
            units, run(task, units), strict=True
        ):
            number = len(compared.marks) + len(marked.compared)
            is_full = number > near_duplicates.MOST_TEXTS
            if is_full and unit.split == "unlabeled":  # Matters least.
                compared.skipped += len(marked.compared)
            else:
                compared.marks.extend(marked.compared)
                compared.signatures.extend(marked.signatures)
            marked.signatures.clear()
            seen[unit.split].append(marked)
            if unit.split == "train":
                groups |= some_groups
    if data.group_field and len(groups) < 2:
        found = "no document has such a field"
        if groups:
            found = (
                f"every document has the group {min(groups)!r}, so that nothing"
                " could be held out"
            )
        raise ValueError(
            f"data.group_field={data.group_field!r}: {found}. Name the field"
            " with authors, products or threads, or leave the flag out."
        )
    return seen, compared


def _conclude(
    data: schema.DataConfig, seen: _Seen, compared: _Compared, *, own_test: bool
) -> Survey:
    train = seen.get("train", [])
    labelled = sum(bool(label) for marked in train for label in marked.labels)
    if not labelled and data.label_field not in _NEED_NOT_BE:
        raise ValueError(
            f"data.label_field={data.label_field!r}: no document has such a"
            " label; name the field of csv, jsonl, parquet or tfds that has it,"
            " or leave the flag out."
        )
    rate = data.validation_rate
    if rate == -1:
        wanted = _VALIDATION_DOCUMENTS / labelled if labelled else 0.0
        rate = min(_HIGHEST_RATE, max(_LOWEST_RATE, wanted))
    found = _near_duplicates(seen, compared)
    roles = roles_lib.Roles(
        near=found.groups,
        validation_rate=0.0 if data.validation_path else rate,
        test_rate=0.0 if own_test or not labelled else _TEST_RATE,
        has_labels=labelled > 0,
    )
    multilabel = _is_multilabel(data, seen)
    kept = _without_training(roles, train, multilabel)
    roles = dataclasses.replace(roles, kept=frozenset(kept.values()))
    roles = _with_repeats(roles, seen)
    labels: dict[str, dict[str, int]] = {
        role: collections.Counter() for role in ("train", "validation", "test")
    }
    first, contested = dict[int, str](), set[int]()
    for split, some in seen.items():
        for text, decisive, label in _documents(some):
            if not label:
                continue
            role = roles.of_marks(text, decisive, split, label)
            if role in labels and split != "test":
                labels[role][label] += 1
            known = roles.near.get(text, text)
            if first.setdefault(known, label) != label:
                contested.add(known)
    return Survey(
        roles=roles,
        labels={role: dict(count) for role, count in labels.items()},
        kept_labels=sorted(kept),
        without_label=sum(len(marked.labels) for marked in train) - labelled
        if labelled
        else 0,
        multilabel=multilabel,
        near_duplicates={
            "texts": len(found.groups),
            "groups": found.num_groups,
            "too_large": found.too_large,
            "skipped": found.skipped,
            "with_several_labels": len(contested),
        },
    )


def _near_duplicates(seen: _Seen, compared: _Compared) -> near_duplicates.Found:
    """Of the texts with a label or in a file of their own, and like them."""
    decisive = {
        text
        for split, some in seen.items()
        for text, _, label in _documents(some)
        if label or split in ("validation", "test")
    }
    marks = np.array(compared.marks)
    found = near_duplicates.find(
        marks,
        np.frombuffer(compared.signatures, np.uint8),
        np.isin(marks, np.fromiter(decisive, np.uint64)),
    )
    return found._replace(skipped=found.skipped + compared.skipped)


def _documents(
    seen: Sequence[reading.Marked],
) -> Iterator[tuple[int, int, str]]:
    for marked in seen:
        yield from zip(
            marked.texts, marked.decisive, marked.labels, strict=True
        )


def _is_multilabel(data: schema.DataConfig, seen: _Seen) -> bool:
    """Whether the labels are sets; raises ValueError where only some are."""
    labels = {
        label
        for some in seen.values()
        for *_, label in _documents(some)
        if label
    }
    sets = {label for label in labels if label_sets.is_one(label)}
    if data.label_kind == "one" or not sets:
        return False
    if labels - sets:
        raise ValueError(
            f"data.label_field={data.label_field!r} is a list of labels in some"
            f" documents, such as {min(sets)[:80]}, and one label in others,"
            f" such as {min(labels - sets)[:80]!r}; make all of them lists, or"
            " set data.label_kind=one if what looks like a list is a name."
        )
    return True


def _names(label: str, multilabel: bool) -> tuple[str, ...]:
    """The classes that a label stands for."""
    if not label:
        return ()
    return label_sets.split(label) if multilabel else (label,)


def _without_training(
    roles: roles_lib.Roles, train: Sequence[reading.Marked], multilabel: bool
) -> dict[str, int]:
    """Classes without any training document, and a mark of one document."""
    least: dict[str, int] = {}
    trained = set[str]()
    for _, mark, label in _documents(train):
        names = _names(label, multilabel)
        if roles.drawn(mark, "train", label) == "train":
            trained.update(names)
        else:
            mark = roles.near.get(mark, mark)
            for name in names:
                least[name] = min(mark, least.get(name, mark))
    return {name: mark for name, mark in least.items() if name not in trained}


def _with_repeats(roles: roles_lib.Roles, seen: _Seen) -> roles_lib.Roles:
    """The roles, which also recognize held-out text that occurs elsewhere."""

    def drawn() -> Iterator[tuple[str, int]]:
        for split, marked in seen.items():
            for text, decisive, label in _documents(marked):
                role = roles.drawn(decisive, split, label)
                yield role, text
                yield role, decisive
                yield role, roles.near.get(text, text)

    in_test = {mark for role, mark in drawn() if role == "test"}
    in_validation = {mark for role, mark in drawn() if role == "validation"}
    return dataclasses.replace(
        roles,
        in_test=frozenset(
            mark for role, mark in drawn() if role != "test" and mark in in_test
        ),
        in_validation=frozenset(
            mark
            for role, mark in drawn()
            if role == "train" and mark in in_validation
        ),
    )
