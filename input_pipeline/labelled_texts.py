"""Labelled documents with their texts, for people to look at.

The rows of a classifier hold ids of tokens, from which no text comes back.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from configs import schema
from input_pipeline import (
    cleaning,
    label_sets,
    manifest,
    processes,
    reading,
)
from input_pipeline import corpus as corpus_lib
from input_pipeline import roles as roles_lib
from input_pipeline import tokenizer as tokenizer_lib
from input_pipeline.documents import Documents, Unit

_ROLES = ("train", "validation")
EXCERPT = 400  # Characters.


class LabelledTexts(NamedTuple):
    """N documents.

    Attributes:
      documents: what the n-grams see of them; each is one segment.
      excerpts: the beginnings of the texts, in one line each.
      marks: uint64 [N], equal for texts that are the same or nearly so.
    """

    documents: Documents
    excerpts: list[str]
    marks: np.ndarray


def read(
    config: schema.Config,
    corpus: corpus_lib.Corpus,
    rows: manifest.Prepared,
    *,
    every: int = 1,
) -> LabelledTexts:
    """Those for training and validation, in the order of the text.

    Args:
      config: of the run.
      corpus: its text.
      rows: labelled rows, whose tokenizer and classes count.
      every: of so many documents of a class in a unit, the first is taken.
    """
    units = [unit for unit in corpus.units if unit.split in _ROLES]
    task = _Reader(
        config,
        corpus.survey.roles,
        str(rows.directory),
        rows.stored_labels,
        every,
    )
    with processes.pool(__name__, config.data.num_processes, len(units)) as run:
        found = [*run(task, units)]
    documents = Documents.joined([some.documents for some in found])
    if rows.multilabel:
        table = rows.label_table[documents.labels]
        documents = documents._replace(labels=table)
    return LabelledTexts(
        documents,
        [excerpt for some in found for excerpt in some.excerpts],
        np.concatenate([some.marks for some in found]),
    )


def training(
    config: schema.Config,
) -> list[tuple[str, str | tuple[str, ...]]]:
    """Text and label, or labels, of each labelled document for training.

    They come in the order of the text.

    Raises:
      ValueError: the text is not where it was.
    """
    corpus = corpus_lib.Corpus(config.data)
    several = corpus.survey.multilabel
    return [
        (item.text, label_sets.split(item.label) if several else item.label)
        for unit in corpus.units
        if unit.split == "train"
        for item in reading.documents(
            config, unit, corpus.survey.roles, cleaning.Counts()
        )
        if item.label and item.role == "train"
    ]


@dataclasses.dataclass(frozen=True)
class _Reader:
    config: schema.Config
    roles: roles_lib.Roles
    directory: str
    labels: Sequence[str]
    every: int

    def __call__(self, unit: Unit) -> LabelledTexts:
        """The documents of a unit."""
        tokenizer = tokenizer_lib.load_once(self.directory)
        encoded, labels, excerpts, marks = [], [], [], []
        seen = collections.Counter[str]()
        for batch in reading.in_batches(
            reading.documents(self.config, unit, self.roles, cleaning.Counts())
        ):
            used = []
            for item in batch:
                if item.label and item.role in _ROLES:
                    if not seen[item.label] % self.every:
                        used.append(item)
                    seen[item.label] += 1
            for item in used:
                mark, _ = roles_lib.marks(item.text, "")
                marks.append(self.roles.near.get(mark, mark))
            encoded += tokenizer.encode([item.text for item in used])
            labels += [self.labels.index(item.label) for item in used]
            excerpts += [" ".join(i.text.split())[:EXCERPT] for i in used]
        lengths = np.array([*map(len, encoded)], np.int64)
        owners = np.repeat(np.arange(len(encoded)), lengths)
        tokens = np.concatenate([np.zeros([0], np.int32), *encoded])
        documents = Documents(tokens, owners, owners, np.array(labels))
        return LabelledTexts(documents, excerpts, np.array(marks, np.uint64))
