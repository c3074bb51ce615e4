"""Labelled text to prepared rows for the classifier, once a corpus.

The same roles as in pretraining: what validates there validates here.
Documents without a label are left to pretraining, and to self-training: these
are rows of their own.
"""

import functools
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import storage
from configs import schema
from input_pipeline import (
    blocks,
    cleaning,
    labelled_rows,
    manifest,
    packing,
    processes,
    reading,
    sources,
    survey,
)
from input_pipeline import corpus as corpus_lib
from input_pipeline import roles as roles_lib
from input_pipeline import tokenizer as tokenizer_lib

_ROLES = ("train", "validation")
UNLABELLED = "unlabeled"  # The role, and the split, of what has no label.
_Packed = dict[str, tuple[np.ndarray, packing.RowCounts]]


class NoLabelsError(ValueError):
    """The text has no labels at all."""


def prepare(
    config: schema.Config,
    tokenizer: tokenizer_lib.Tokenizer,
    corpus: corpus_lib.Corpus | None = None,
) -> pathlib.Path:
    """The directory with the labelled rows, made where it is missing.

    Raises:
      NoLabelsError: the text has none.
      ValueError: the source cannot be read, or its labels cannot be learned:
        one class alone, or one that no training document has.
      OSError: the directory cannot be written, for want of space or rights.
    """
    if config.data.source == "text":
        raise NoLabelsError(
            "data.source=text has no labels; fine-tuning needs csv, jsonl or"
            " tfds with data.label_field."
        )
    corpus = corpus or corpus_lib.Corpus(config.data)
    known = corpus.survey
    if not known.roles.has_labels:
        raise NoLabelsError(
            f"data.label_field={config.data.label_field!r}: no document has a"
            " label; if another field holds it, name that one with"
            " --config.data.label_field."
        )
    labelled = [unit for unit in corpus.units if unit.split in _ROLES]
    return manifest.made_once(
        config.data.prepared_dir,
        _identity(config, corpus, labelled, tokenizer),
        lambda directory: _write_all(
            config, labelled, known, tokenizer, directory
        ),
    )


def prepare_unlabelled(
    config: schema.Config,
    labelled: manifest.Prepared,
    corpus: corpus_lib.Corpus | None = None,
) -> pathlib.Path:
    """The directory with rows of what has no label, made where it is missing.

    They have the layout of the labelled rows, one role, `UNLABELLED`, and the
    first class at every document, until somebody answers better. Neither
    validation nor test, nor what repeats them, is among them.

    Raises:
      ValueError: the source cannot be read.
      OSError: the directory cannot be written, for want of space or rights.
    """
    corpus = corpus or corpus_lib.Corpus(config.data)
    roles = corpus.survey.roles
    units = [
        unit for unit in corpus.units if unit.split in ("train", UNLABELLED)
    ]
    layout = labelled_rows.Layout.of(config, labelled.documents_per_row)

    def write(directory: pathlib.Path) -> dict[str, Any]:
        labelled.tokenizer.save(directory)
        with processes.pool(
            __name__, config.data.num_processes, len(units)
        ) as run:
            encode = functools.partial(
                _encode_unit,
                config,
                roles,
                (UNLABELLED,),
                (),
                layout,
                str(directory),
            )
            facts, _ = _write_rows(
                run(encode, units), (UNLABELLED,), layout, directory
            )
        return {**facts, "dtype": labelled.dtype.str, "report": {}}

    identity = {
        **_identity(config, corpus, units, labelled.tokenizer),
        "purpose": "self-training",
        "documents_per_row": layout.num_documents,
    }
    return manifest.made_once(config.data.prepared_dir, identity, write)


def _identity(
    config: schema.Config,
    corpus: corpus_lib.Corpus,
    units: list[sources.Unit],
    tokenizer: tokenizer_lib.Tokenizer,
) -> dict[str, Any]:
    """All that decides the content of the rows; JSON."""
    data = config.data
    return {
        "format": manifest.FORMAT,
        "purpose": "classification",
        "source": corpus.fingerprint(units),
        "roles": storage.sha256_json(corpus.survey.roles.to_dict()),
        "text_field": data.text_field,
        "label_field": data.label_field,
        "group_field": data.group_field,
        "sequence_length": data.sequence_length,
        "packing": config.finetune.packing,
        "pieces_per_row": config.finetune.pieces_per_row,
        "tokenizer": tokenizer.kind,
        "vocabulary": storage.sha256_json(tokenizer.vocabulary),
    }


def _write_all(
    config: schema.Config,
    units: list[sources.Unit],
    known: survey.Survey,
    tokenizer: tokenizer_lib.Tokenizer,
    directory: pathlib.Path,
) -> dict[str, Any]:
    """Writes vocabulary and shards; returns the facts for the manifest."""
    tokenizer.save(directory)
    dtype = packing.slot_dtype(tokenizer.vocabulary_size)
    labels = _classes(config, known, largest=int(np.iinfo(dtype).max) - 1)
    with processes.pool(__name__, config.data.num_processes, len(units)) as run:
        measure = functools.partial(
            _measure_unit, config, known.roles, str(directory)
        )
        layout = labelled_rows.Layout.of(
            config, max(run(measure, units), default=1)
        )
        encode = functools.partial(
            _encode_unit,
            config,
            known.roles,
            _ROLES,
            labels,
            layout,
            str(directory),
        )
        facts, totals = _write_rows(
            run(encode, units), _ROLES, layout, directory
        )
    return {
        **facts,
        "dtype": dtype.str,
        "labels": labels,
        "report": {
            role: {
                "documents": totals[role].documents,
                "documents_without_tokens": totals[
                    role
                ].documents_without_tokens,
                "tokens_kept": totals[role].tokens_kept,
                "tokens_cut": totals[role].tokens_cut,
                "rows": totals[role].rows,
                "slots": totals[role].rows * layout.slots,
                "slots_used": totals[role].slots_used,
                "labels": {
                    name: known.labels[role].get(name, 0) for name in labels
                },
                "labels_kept": known.kept_labels * (role == "train"),
            }
            for role in _ROLES
        },
    }


def _write_rows(
    packed: Iterable[_Packed],
    names: Sequence[str],
    layout: labelled_rows.Layout,
    directory: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, packing.RowCounts]]:
    """Writes the shards of these roles; their facts, and what they hold."""
    rows_per_block = manifest.rows_per_block(layout.width)
    writers = {
        role: blocks.BlockWriter(directory, role, rows_per_block)
        for role in names
    }
    totals = {role: packing.RowCounts() for role in names}
    for roles in packed:
        for role, (rows, counts) in roles.items():
            writers[role].write(rows)
            totals[role].add(counts)
    facts = {
        "sequence_length": layout.length,
        "row_width": layout.width,
        "documents_per_row": layout.num_documents,
        "rows_per_block": rows_per_block,
        "roles": {
            role: manifest.describe_role(writers[role], totals[role])
            for role in names
        },
    }
    return facts, totals


def _measure_unit(
    config: schema.Config,
    roles: roles_lib.Roles,
    directory: str,
    unit: sources.Unit,
) -> int:
    """S for the first documents of a unit."""
    tokenizer = tokenizer_lib.load_once(directory)
    documents = reading.documents(config, unit, roles, cleaning.Counts())
    first = next(reading.in_batches(documents), [])
    return labelled_rows.num_documents(
        tokenizer.encode([item.text for item in first]),
        labelled_rows.Layout.of(config),
        wrap=tokenizer.wrap,
        num_wrapping=tokenizer.num_wrapping,
    )


def _classes(
    config: schema.Config, known: survey.Survey, *, largest: int
) -> list[str]:
    """The names of the classes, numbers by size, else by alphabet."""
    field = f"data.label_field={config.data.label_field!r}"
    train = known.labels["train"]
    unseen = sorted(set().union(*known.labels.values()) - set(train))
    if unseen:
        where = config.data.validation_path or "those set aside"
        raise ValueError(
            f"{field}: {', '.join(map(repr, unseen[:5]))} occurs in no training"
            f" document, but in {where}, so it could not be learned; known are"
            f" {', '.join(map(repr, sorted(train)[:20]))}. Correct it, give"
            " more documents of it, or leave it out."
        )
    if len(train) < 2:
        only = ", ".join(map(repr, train)) or "none"
        raise ValueError(
            f"{field} has one value in the training documents ({only}); a"
            " classifier needs at least two."
        )
    if len(train) > largest:
        raise ValueError(
            f"{field} has {len(train):,} values; at most {largest:,} classes"
            " can be stored. Is it really a label?"
        )
    return sorted(train, key=_natural)


def _natural(label: str) -> tuple[bool, float, str]:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return False, number, label
    return True, 0.0, label


def _encode_unit(
    config: schema.Config,
    roles: roles_lib.Roles,
    names: Sequence[str],
    labels: Sequence[str],
    layout: labelled_rows.Layout,
    directory: str,
    unit: sources.Unit,
) -> _Packed:
    """Stored rows of one unit, by role; only the roles of these names."""
    tokenizer = tokenizer_lib.load_once(directory)
    number = {name: index for index, name in enumerate(labels)}
    documents: dict[str, list[tuple[np.ndarray, int]]] = {
        role: [] for role in names
    }
    for batch in reading.in_batches(
        reading.documents(config, unit, roles, cleaning.Counts())
    ):
        used = [
            (role, item)
            for item in batch
            if (role := _role_of(item)) in documents
        ]
        ids = tokenizer.encode([item.text for _, item in used])
        for (role, item), tokens in zip(used, ids, strict=True):
            documents[role].append((tokens, number.get(item.label, 0)))
    return {
        role: labelled_rows.pack(
            items,
            layout,
            wrap=tokenizer.wrap,
            num_wrapping=tokenizer.num_wrapping,
            dtype=packing.slot_dtype(tokenizer.vocabulary_size),
        )
        for role, items in documents.items()
    }


def _role_of(item: reading.CleanDocument) -> str:
    """Its role here; what has no label only ever trains."""
    if item.label:
        return item.role
    return UNLABELLED if item.role == "train" else ""
