"""Text to prepared rows, once a corpus, on all cores.

source -> clean -> roles -> tokenize -> pack -> blocks of K rows in TFRecord
shards. Rows have three purposes: pretraining (all text), the classifier
(labelled text) and self-training (text without labels). All three follow the
same roles, so that a validation document of one is one of the others, too.

The work is cut into units that do not depend on the number of processes, and
their results are joined in order: the output is the same, byte for byte, for
any number.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

import storage
from configs import schema
from input_pipeline import (
    blocks,
    cleaning,
    label_sets,
    labelled_rows,
    manifest,
    order,
    packing,
    processes,
    reading,
    survey,
    vocabulary,
)
from input_pipeline import corpus as corpus_lib
from input_pipeline import roles as roles_lib
from input_pipeline import tokenizer as tokenizer_lib
from input_pipeline.documents import Unit

ROLES = ("train", "validation")
UNLABELLED = "unlabeled"  # The role, and the split, of what has no label.


class NoLabelsError(ValueError):
    """No document of the text has a label."""


def prepare(
    config: schema.Config,
    tokenizer: tokenizer_lib.Tokenizer | None = None,
    corpus: corpus_lib.Corpus | None = None,
) -> pathlib.Path:
    """The directory with rows for pretraining, made if it is missing.

    Args:
      config: of the run.
      tokenizer: used as it is; None = learned from the text.
      corpus: the text of the config, if it has been opened before.

    Raises:
      ValueError: the source cannot be read or holds nothing to train on.
      OSError: the directory cannot be written, for want of space or rights.
    """
    corpus = corpus or corpus_lib.Corpus(config.data)
    known = corpus.survey
    units = [unit for unit in corpus.units if unit.split != "test"]

    def write(directory: pathlib.Path) -> dict[str, Any]:
        with _pool(config, units) as run:
            used = tokenizer or vocabulary.learn(
                config, units, known.roles, run
            )
            used.save(directory)
            work = _Work(config, known.roles, str(directory), ROLES)
            facts, made = _write(run, work, units, used)
        train = made.rows["train"]
        if not train.rows:
            raise ValueError(
                "No training text is left: of"
                f" {made.read.documents_read} documents"
                f" {made.read.documents_kept} are not empty, and"
                f" {made.rows['validation'].documents} of these are"
                f" validation, {made.left_out['test']} test. Give more text."
            )
        vocabulary.require_readable(config, used, made.rows)
        report = {
            "read": made.read.to_dict(),
            "documents_reserved_for_test": made.left_out["test"],
            "documents_repeating_test": made.left_out["repeats test"],
            "documents_repeating_validation": made.left_out[
                "repeats validation"
            ],
            "documents_without_label": known.without_label,
            "near_duplicates": known.near_duplicates,
            "validation_rate": known.roles.validation_rate,
            "vocabulary_size": used.vocabulary_size,
            "rows": {
                role: dataclasses.asdict(counts)
                for role, counts in made.rows.items()
            },
        }
        return {**facts, "report": report}

    identity = _identity(config, corpus, known.roles, tokenizer)
    return manifest.made_once(config.data.prepared_dir, identity, write)


def locate(
    config: schema.Config, tokenizer: tokenizer_lib.Tokenizer | None = None
) -> pathlib.Path:
    """The path at which `prepare` puts the rows; writes nothing.

    The arguments and errors are those of `prepare`.
    """
    corpus = corpus_lib.Corpus(config.data)
    roles = survey.of(config.data, corpus.units, keep=False).roles
    return manifest.directory_of(
        config.data.prepared_dir, _identity(config, corpus, roles, tokenizer)
    )


def prepare_labelled(
    config: schema.Config,
    tokenizer: tokenizer_lib.Tokenizer,
    corpus: corpus_lib.Corpus | None = None,
) -> pathlib.Path:
    """The directory with rows for the classifier, made if it is missing.

    Raises:
      NoLabelsError: no document has a label.
      ValueError: the source cannot be read, or its labels cannot be learned:
        one class alone, or one that no training document has.
      OSError: the directory cannot be written, for want of space or rights.
    """
    if config.data.source == "text":
        raise NoLabelsError(
            "data.source=text has no labels; fine-tuning needs folders, or csv,"
            " jsonl, parquet or tfds with data.label_field."
        )
    corpus = corpus or corpus_lib.Corpus(config.data)
    known = corpus.survey
    if not known.roles.has_labels:
        raise NoLabelsError(
            f"data.label_field={config.data.label_field!r}: no document has a"
            " label; if another field holds it, name that one with"
            " --config.data.label_field."
        )
    units = [unit for unit in corpus.units if unit.split in ROLES]
    widest = labelled_rows.Layout.of(config)

    def write(directory: pathlib.Path) -> dict[str, Any]:
        tokenizer.save(directory)
        dtype = packing.slot_dtype(tokenizer.vocabulary_size)
        largest = int(np.iinfo(dtype).max) - 1
        classes = known.classes(config.data, largest=largest)
        sets = known.sets(classes)
        labels = label_sets.of_classes(classes, sets) if sets else classes
        work = _Work(config, known.roles, str(directory), ROLES, labels, widest)
        with _pool(config, units) as run:
            number = max(run(work.measure, units), default=1)
            layout = labelled_rows.Layout.of(config, number)
            work = dataclasses.replace(work, layout=layout)
            facts, made = _write(run, work, units, tokenizer)
        report = {
            role: {
                **dataclasses.asdict(counts),
                "slots": counts.rows * layout.slots,
                "labels": dict.fromkeys(classes, 0) | known.by_class(role),
                "labels_kept": known.kept_labels * (role == "train"),
            }
            for role, counts in made.rows.items()
        }
        several = {"label_sets": sets} if sets else {}
        return {**facts, "labels": classes, **several, "report": report}

    identity = {
        **_identity(config, corpus, known.roles, tokenizer),
        "purpose": "classification",
        "layout": dataclasses.asdict(widest),
    }
    return manifest.made_once(config.data.prepared_dir, identity, write)


def prepare_unlabelled(
    config: schema.Config,
    labelled: manifest.Prepared,
    corpus: corpus_lib.Corpus | None = None,
) -> pathlib.Path:
    """The directory with rows of text without labels, made if it is missing.

    They have the layout of the labelled rows and one role, `UNLABELLED`. Every
    document has the first class until self-training assigns another. Neither
    validation and test documents nor repetitions of them are among the rows.

    Raises:
      ValueError: the source cannot be read.
      OSError: the directory cannot be written, for want of space or rights.
    """
    corpus = corpus or corpus_lib.Corpus(config.data)
    roles = corpus.survey.roles
    units = [u for u in corpus.units if u.split in ("train", UNLABELLED)]
    layout = labelled_rows.Layout.of(config, labelled.documents_per_row)

    def write(directory: pathlib.Path) -> dict[str, Any]:
        labelled.tokenizer.save(directory)
        work = _Work(config, roles, str(directory), (UNLABELLED,), [], layout)
        with _pool(config, units) as run:
            facts, _ = _write(run, work, units, labelled.tokenizer)
        return {**facts, "report": {}}

    identity = {
        **_identity(config, corpus, roles, labelled.tokenizer),
        "purpose": "self-training",
        "layout": dataclasses.asdict(layout),
    }
    return manifest.made_once(config.data.prepared_dir, identity, write)


def _pool(
    config: schema.Config, units: Sequence[Unit]
) -> AbstractContextManager[processes.Map]:
    return processes.pool(__name__, config.data.num_processes, len(units))


def _identity(
    config: schema.Config,
    corpus: corpus_lib.Corpus,
    roles: roles_lib.Roles,
    tokenizer: tokenizer_lib.Tokenizer | None,
) -> dict[str, Any]:
    """All that decides the content of the rows; JSON."""
    knobs = config.deciding("rows")
    if tokenizer:  # Then nothing is learned.
        knobs = {k: v for k, v in knobs.items() if k[:10] != "tokenizer."}
        knobs["tokenizer"] = tokenizer.identity
    used = [unit for unit in corpus.units if unit.split != "test"]
    return {
        "format": manifest.FORMAT,
        "source": corpus.fingerprint(used),
        "roles": storage.sha256_json(roles.to_dict()),
        "knobs": knobs,
    }


class _Made(NamedTuple):
    """What became of the documents of a unit, or of all."""

    rows: dict[str, packing.RowCounts]  # By role.
    read: cleaning.Counts
    left_out: collections.Counter[str]  # Documents, by the role they have.


@dataclasses.dataclass(frozen=True)
class _Work:
    """Makes rows of a unit, in whatever process.

    Attributes:
      config: of the run.
      roles: of the documents.
      directory: with the vocabulary.
      names: of the roles that become rows.
      labels: of the documents, in the order of their numbers in a row.
      layout: of labelled rows; None = rows for pretraining.
    """

    config: schema.Config
    roles: roles_lib.Roles
    directory: str
    names: tuple[str, ...]
    labels: Sequence[str] = ()
    layout: labelled_rows.Layout | None = None

    def measure(self, unit: Unit) -> int:
        """S for the first documents of a unit."""
        assert self.layout
        tokenizer = tokenizer_lib.load_once(self.directory)
        documents = reading.documents(
            self.config, unit, self.roles, cleaning.Counts()
        )
        first = next(reading.in_batches(documents), [])
        return labelled_rows.num_documents(
            tokenizer.encode([item.text for item in first]),
            self.layout,
            wrap=tokenizer.wrap,
            num_wrapping=tokenizer.num_wrapping,
        )

    def encode(
        self, numbered: tuple[int, Unit]
    ) -> tuple[dict[str, np.ndarray], _Made]:
        """The stored rows of a unit, by role, and what they were made of."""
        number, unit = numbered
        tokenizer = tokenizer_lib.load_once(self.directory)
        classes = {name: index for index, name in enumerate(self.labels)}
        counts, left_out = cleaning.Counts(), collections.Counter[str]()
        documents: dict[str, list[tuple[np.ndarray, int]]] = {
            role: [] for role in self.names
        }
        read = {role: packing.RowCounts() for role in self.names}
        for batch in reading.in_batches(
            reading.documents(self.config, unit, self.roles, counts)
        ):
            by_role = collections.defaultdict(list)
            for item in batch:
                by_role[self._role_of(item)].append(item)
            for role, items in by_role.items():
                if role not in documents:
                    left_out[role] += len(items)
                    continue
                texts = [item.text for item in items]
                encoded = tokenizer.encode(texts)
                read[role].add(vocabulary.unread(texts, encoded, tokenizer))
                documents[role] += [
                    (ids, classes.get(item.label, 0))
                    for ids, item in zip(encoded, items, strict=True)
                ]
        rows = {}
        for role, some in documents.items():
            rows[role], packed = self._pack(role, some, tokenizer, number)
            read[role].add(packed)
        return rows, _Made(read, counts, left_out)

    def _role_of(self, item: reading.CleanDocument) -> str:
        """The role among these rows; "" leaves the document out.

        Where there are labels, a document without one is only ever trained on.
        """
        if not self.layout or item.label:
            return item.role
        return UNLABELLED if item.role == "train" else ""

    def _pack(
        self,
        role: str,
        documents: list[tuple[np.ndarray, int]],
        tokenizer: tokenizer_lib.Tokenizer,
        number: int,
    ) -> tuple[np.ndarray, packing.RowCounts]:
        wrapped: dict[str, Any] = {
            "wrap": tokenizer.wrap,
            "num_wrapping": tokenizer.num_wrapping,
            "dtype": packing.slot_dtype(tokenizer.vocabulary_size),
        }
        if self.layout:
            return labelled_rows.pack(documents, self.layout, **wrapped)
        data = self.config.data
        is_train = role == "train"
        rows, counts = packing.pack(
            [ids for ids, _ in documents],
            policy=data.packing if is_train else data.validation_packing,
            length=data.sequence_length,
            **wrapped,
        )
        if is_train:  # Rows of one document do not stay side by side.
            rows = rows[order.shuffled(len(rows), number)]
        return rows, counts


def _write(
    run: processes.Map,
    work: _Work,
    units: Sequence[Unit],
    tokenizer: tokenizer_lib.Tokenizer,
) -> tuple[dict[str, Any], _Made]:
    """Writes the shards of every role; facts for the manifest, and totals."""
    length = work.config.data.sequence_length
    width = work.layout.width if work.layout else length
    rows_per_block = manifest.rows_per_block(width)
    writers = {
        role: blocks.BlockWriter(
            pathlib.Path(work.directory), role, rows_per_block
        )
        for role in work.names
    }
    totals = {role: packing.RowCounts() for role in work.names}
    read, left_out = cleaning.Counts(), collections.Counter[str]()
    for rows, made in run(work.encode, enumerate(units)):
        read += made.read
        left_out.update(made.left_out)
        for role in work.names:
            writers[role].write(rows[role])
            totals[role].add(made.rows[role])
    facts = {
        "sequence_length": length,
        "row_width": width,
        "documents_per_row": work.layout.num_documents if work.layout else 0,
        "dtype": packing.slot_dtype(tokenizer.vocabulary_size).str,
        "rows_per_block": rows_per_block,
        "roles": {
            role: {
                **writers[role].close(),
                "num_documents": totals[role].documents,
                "num_tokens": totals[role].slots_used,
            }
            for role in work.names
        },
    }
    return facts, _Made(totals, read, left_out)
