"""The labelled documents of the role `test`, as they are stored.

Only an evaluation reads them, except that a survey takes the marks of those in
files, and of those that a hash set aside. Nothing trains on them.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import storage
from configs import schema
from input_pipeline import cleaning, label_sets, roles, sources
from input_pipeline.corpus import Corpus


class Example(NamedTuple):
    """A document with a label, and where it stands."""

    raw: bytes
    label: str
    digest: bytes  # Eight bytes for the clean text.
    place: str  # For messages.


@dataclasses.dataclass
class Counts:
    """What was found, and what is not evaluated."""

    evaluated: int = 0
    empty: int = 0  # In the source's own test split.
    without_label: int = 0
    split: int = 0  # Further pieces of documents that were too long.
    own_split: bool = False  # Not by hash out of the training text.


def fingerprint(corpus: Corpus) -> str:
    """Of all that decides `examples`."""
    data = corpus.data
    own = [unit for unit in corpus.units if unit.split == "test"]
    used = own or [unit for unit in corpus.units if unit.split == "train"]
    source = corpus.fingerprint(used)
    decide = {} if own else corpus.survey.roles.to_dict()
    return storage.sha256_json(
        [source, data.text_field, data.label_field, decide]
    )


def examples(corpus: Corpus, counts: Counts) -> Iterator[Example]:
    """Test documents in order: the source's own, else a tenth by hash.

    Which tenth is what `prepare` decided with: it set the same aside.
    """
    data, units = corpus.data, corpus.units
    own = [unit for unit in units if unit.split == "test"]
    counts.own_split = bool(own)
    decide = corpus.survey.roles if not own else None
    number, read = 0, cleaning.Counts()
    for unit in own or [unit for unit in units if unit.split == "train"]:
        for document in sources.read(data, unit, read):
            text = cleaning.clean(document.raw, read)
            _, label, group = document
            if decide and not (
                text and decide.of(text, "train", label, group) == "test"
            ):
                continue
            number += 1
            if not text:
                counts.empty += 1
            elif not document.label:
                counts.without_label += 1
            else:
                counts.evaluated += 1
                yield Example(
                    document.raw,
                    document.label,
                    roles.digest(text),
                    f"test document {number}, {_place(unit)}",
                )
    counts.split = read.documents_split


def _place(unit: sources.Unit) -> str:
    first, last = unit.pieces[0].path, unit.pieces[-1].path
    return f"in {first}" if first == last else f"from {first} to {last},"


def check(corpus: Corpus, names: Sequence[str]) -> None:
    """Refuses a test file that cannot be evaluated, before training.

    Its labels are compared with those that are known; all else is ignored.

    Args:
      corpus: its `data.test_path`; any other test split is left alone.
      names: the labels of the training documents.

    Raises:
      ValueError: the file cannot be read, has no label, or an unknown one.
    """
    if corpus.data.test_path:
        counts = Counts()
        found = examples(corpus, counts)
        for _ in known(found, names, multilabel=corpus.survey.multilabel):
            pass
        require_labels(corpus.data, counts)


def known(
    examples: Iterable[Example], names: Sequence[str], *, multilabel: bool
) -> Iterator[Example]:
    """The examples; raises ValueError at a label that is none of `names`.

    With `multilabel`, every label has to be a set of `names`.
    """
    for example in examples:
        labels: Sequence[str] = [example.label]
        if multilabel and label_sets.is_one(example.label):
            labels = label_sets.split(example.label)
        elif multilabel:
            raise ValueError(
                f"{example.place} has one label, {example.label!r}, but the"
                " classifier knows lists of labels; make it a list, or set"
                " data.label_separator."
            )
        for label in labels:
            if label not in names:
                raise ValueError(
                    f"{example.place} has the label {label!r}, which the"
                    f" classifier does not know; it knows"
                    f" {', '.join(map(repr, names))}. Correct the label, or"
                    " fine-tune with it."
                )
        yield example


def require_labels(data: schema.DataConfig, counts: Counts) -> None:
    """Refuses a test file without any labelled document."""
    if data.test_path and not counts.evaluated:
        raise ValueError(
            f"data.test_path={data.test_path} has no labelled document:"
            f" {counts.without_label:,} have no data.label_field="
            f"{data.of_split('test').label_field!r}, {counts.empty:,} are"
            " empty. Give labels, or"
            " leave data.test_path out: a tenth of data.path is the test split"
            " then."
        )
