"""Text to prepared rows, once a corpus, on all cores.

source -> clean -> split roles -> tokenize -> pack -> blocks of K rows in
TFRecord shards. The work is cut into units that do not depend on the number
of processes, and their results are joined in order: the output is the same,
byte for byte, for any number.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

import storage
from configs import schema
from input_pipeline import (
    blocks,
    cleaning,
    manifest,
    order,
    packing,
    processes,
    reading,
    sources,
    survey,
)
from input_pipeline import corpus as corpus_lib
from input_pipeline import roles as roles_lib
from input_pipeline import tokenizer as tokenizer_lib

_LONG = 20  # Characters; a text of so many has more than two words.
# What a tokenizer of words may leave unread, and how much text tells.
_MOST_UNKNOWN, _ENOUGH_TOKENS = 40, 1_000  # Percent.
_SMALL_VOCABULARY = 1_000
_MOST_UNREAD, _ENOUGH_DOCUMENTS = 50, 20
# Of one unit: rows and counts of every role, what the cleaner counted, and
# how many documents were set aside, by reason.
_Result = tuple[
    dict[str, tuple[np.ndarray, packing.RowCounts]],
    cleaning.Counts,
    collections.Counter[str],
]


def prepare(
    config: schema.Config,
    tokenizer: tokenizer_lib.Tokenizer | None = None,
    corpus: corpus_lib.Corpus | None = None,
) -> pathlib.Path:
    """The directory with the prepared rows, made where it is missing.

    Args:
      config: of the run.
      tokenizer: used as it is; None = learned from the text.
      corpus: the text of the config, if it has been opened before.

    Raises:
      ValueError: the source cannot be read or holds nothing to train on.
      OSError: the directory cannot be written, for want of space or rights.
    """
    corpus = corpus or corpus_lib.Corpus(config.data)
    return manifest.made_once(
        config.data.prepared_dir,
        _identity(config, corpus, corpus.survey.roles, tokenizer),
        lambda directory: _write_all(
            config, corpus.units, corpus.survey, tokenizer, directory
        ),
    )


def locate(
    config: schema.Config, tokenizer: tokenizer_lib.Tokenizer | None = None
) -> pathlib.Path:
    """Where `prepare` puts the rows, made or not; writes nothing.

    The arguments and errors are those of `prepare`.
    """
    corpus = corpus_lib.Corpus(config.data)
    roles = survey.of(config.data, corpus.units, keep=False).roles
    return manifest.directory_of(
        config.data.prepared_dir, _identity(config, corpus, roles, tokenizer)
    )


def _identity(
    config: schema.Config,
    corpus: corpus_lib.Corpus,
    roles: roles_lib.Roles,
    tokenizer: tokenizer_lib.Tokenizer | None,
) -> dict[str, Any]:
    """All that decides the content of the rows; JSON."""
    vocabulary = dataclasses.asdict(config.tokenizer)
    if tokenizer:
        sha256 = storage.sha256_json(tokenizer.vocabulary)
        vocabulary = {"kind": tokenizer.kind, "sha256": sha256}
    used = [unit for unit in corpus.units if unit.split != "test"]
    data = config.data
    return {
        "format": manifest.FORMAT,
        "source": corpus.fingerprint(used),
        "roles": storage.sha256_json(roles.to_dict()),
        "text_field": data.text_field,
        "label_field": data.label_field,
        "group_field": data.group_field,
        "document": data.document,
        "sequence_length": data.sequence_length,
        "packing": data.packing,
        "validation_packing": data.validation_packing,
        "tokenizer": vocabulary,
    }


def _write_all(
    config: schema.Config,
    units: list[sources.Unit],
    known: survey.Survey,
    tokenizer: tokenizer_lib.Tokenizer | None,
    directory: pathlib.Path,
) -> dict[str, Any]:
    """Writes vocabulary and shards; returns the facts for the manifest."""
    roles = known.roles
    units = [unit for unit in units if unit.split != "test"]
    with processes.pool(__name__, config.data.num_processes, len(units)) as run:
        tokenizer = tokenizer or _learn(config, units, roles, run)
        tokenizer.save(directory)
        task = functools.partial(_encode_unit, config, roles, str(directory))
        results = run(task, list(enumerate(units)))
        return {
            "sequence_length": config.data.sequence_length,
            "dtype": packing.slot_dtype(tokenizer.vocabulary_size).str,
            "rows_per_block": manifest.rows_per_block(
                config.data.sequence_length
            ),
            **_write_rows(config, known, tokenizer, results, directory),
        }


def _learn(
    config: schema.Config,
    units: list[sources.Unit],
    roles: roles_lib.Roles,
    run: processes.Map,
) -> tokenizer_lib.Tokenizer:
    """The tokenizer, learned from the training documents alone."""
    limit = config.tokenizer.max_documents
    total: collections.Counter[str] = collections.Counter()
    found: collections.Counter[str] = collections.Counter()  # By role.
    count = functools.partial(_count_unit, config, roles)
    for unit, (counts, by_role) in zip(units, run(count, units), strict=True):
        if limit and found.total() + by_role.total() >= limit:
            rest = limit - found.total()
            counts, by_role = _count_unit(config, roles, unit, limit=rest)
        total.update(counts)
        found.update(by_role)
        if limit and found.total() >= limit:
            break
    if found.total() > found["empty"] and not found["train"]:
        raise ValueError(
            f"No training text is left: of {found.total()} documents"
            f" {found['validation']} are validation and {found['test']} test,"
            f" and {found['empty']} are empty. Give more text."
        )
    return tokenizer_lib.learn(
        config.tokenizer,
        counts=total,
        texts=_training_texts(config, units, roles, limit),
    )


def _count_unit(
    config: schema.Config,
    roles: roles_lib.Roles,
    unit: sources.Unit,
    limit: int = 0,
) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Word or character counts of a unit, and its documents by role."""
    total: collections.Counter[str] = collections.Counter()
    by_role: collections.Counter[str] = collections.Counter()
    documents = reading.documents(config, unit, roles, cleaning.Counts())
    for batch in reading.in_batches(documents, limit):
        texts = [item.text for item in batch if item.role == "train"]
        total.update(tokenizer_lib.count(config.tokenizer.kind, texts))
        by_role.update(item.role for item in batch)
    return total, by_role


def _training_texts(
    config: schema.Config,
    units: list[sources.Unit],
    roles: roles_lib.Roles,
    limit: int,
) -> Iterator[str]:
    num_read = 0
    for unit in units:
        documents = reading.documents(config, unit, roles, cleaning.Counts())
        for role, text, _ in documents:
            if role == "train":
                yield text
            num_read += 1
            if limit and num_read >= limit:
                return


def _encode_unit(
    config: schema.Config,
    roles: roles_lib.Roles,
    directory: str,
    numbered: tuple[int, sources.Unit],
) -> _Result:
    """Rows of one unit, slots [rows, L] a role, and all counts."""
    number, unit = numbered
    tokenizer = tokenizer_lib.load_once(directory)
    counts = cleaning.Counts()
    reserved: collections.Counter[str] = collections.Counter()
    ids: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    read = {role: packing.RowCounts() for role in ids}
    for batch in reading.in_batches(
        reading.documents(config, unit, roles, counts)
    ):
        for role, group in _by_role(batch).items():
            if role in ids:
                encoded = tokenizer.encode(group)
                ids[role] += encoded
                read[role].add(_read(group, encoded, tokenizer))
            elif role != "empty":
                reserved[role] += len(group)
    policies = {
        "train": config.data.packing,
        "validation": config.data.validation_packing,
    }
    packed = {
        role: packing.pack(
            documents,
            policy=policies[role],
            length=config.data.sequence_length,
            wrap=tokenizer.wrap,
            num_wrapping=tokenizer.num_wrapping,
            dtype=packing.slot_dtype(tokenizer.vocabulary_size),
        )
        for role, documents in ids.items()
    }
    for role, (_, row_counts) in packed.items():
        row_counts.add(read[role])
    rows, row_counts = packed["train"]
    # Rows of one document do not stay side by side.
    shuffled = rows[order.shuffled(len(rows), number)]
    packed["train"] = (shuffled, row_counts)
    return packed, counts, reserved


def _read(
    texts: list[str],
    encoded: list[np.ndarray],
    tokenizer: tokenizer_lib.Tokenizer,
) -> packing.RowCounts:
    """How much of some documents the tokenizer knows."""
    long = [
        len(ids)
        for text, ids in zip(texts, encoded, strict=True)
        if len(text) >= _LONG
    ]
    is_unknown = np.concatenate(encoded) == tokenizer.special.unknown
    return packing.RowCounts(
        tokens_unknown=int(is_unknown.sum()),
        documents_long=len(long),
        documents_long_unread=sum(1 <= number <= 2 for number in long),
    )


def _check_read(
    role: str, counts: packing.RowCounts, vocabulary_size: int
) -> None:
    """Raises ValueError where words are not what the text is made of."""
    unknown = 100 * counts.tokens_unknown / max(1, counts.tokens_read)
    unread = 100 * counts.documents_long_unread / max(1, counts.documents_long)
    is_known = vocabulary_size < _SMALL_VOCABULARY  # By choice.
    is_known |= counts.tokens_read < _ENOUGH_TOKENS
    if (unknown > _MOST_UNKNOWN and not is_known) or (
        unread > _MOST_UNREAD and counts.documents_long >= _ENOUGH_DOCUMENTS
    ):
        raise ValueError(
            f"The word tokenizer cannot read this text: in {role},"
            f" {unknown:.0f} % of the tokens are unknown (at most"
            f" {_MOST_UNKNOWN} % may be), and {unread:.0f} % of the documents"
            f" of {_LONG} characters or more have one or two tokens (at most"
            f" {_MOST_UNREAD} %). Use --config.tokenizer.kind=wordpiece."
        )


def _write_rows(
    config: schema.Config,
    known: survey.Survey,
    tokenizer: tokenizer_lib.Tokenizer,
    results: Iterable[_Result],
    directory: pathlib.Path,
) -> dict[str, Any]:
    """Writes the shards of both roles; returns `roles` and `report`."""
    length = config.data.sequence_length
    writers = {
        role: blocks.BlockWriter(
            directory, role, manifest.rows_per_block(length)
        )
        for role in ("train", "validation")
    }
    totals = {role: packing.RowCounts() for role in writers}
    read = cleaning.Counts()
    reserved: collections.Counter[str] = collections.Counter()
    for packed, counts, unit_reserved in results:
        read += counts
        reserved.update(unit_reserved)
        for role, (rows, row_counts) in packed.items():
            writers[role].write(rows)
            totals[role].add(row_counts)
    if not totals["train"].rows:
        raise ValueError(
            f"No training text is left: of {read.documents_read} documents"
            f" {read.documents_kept} are not empty, and"
            f" {totals['validation'].documents} of these are validation,"
            f" {reserved['test']} test. Give more text."
        )
    if tokenizer.kind != "wordpiece":
        for role, row_counts in totals.items():
            _check_read(role, row_counts, config.tokenizer.vocabulary_size)
    return {
        "roles": {
            role: manifest.describe_role(writer, totals[role])
            for role, writer in writers.items()
        },
        "report": {
            "read": read.to_dict(),
            "documents_reserved_for_test": reserved["test"],
            "documents_repeating_test": reserved["repeats test"],
            "documents_repeating_validation": reserved["repeats validation"],
            "documents_without_label": known.without_label,
            "validation_rate": known.roles.validation_rate,
            "vocabulary_size": tokenizer.vocabulary_size,
            "rows": {
                role: dataclasses.asdict(counts)
                for role, counts in totals.items()
            },
        },
    }


def _by_role(batch: list[reading.CleanDocument]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for role, text, _ in batch:
        groups.setdefault(role, []).append(text)
    return groups
