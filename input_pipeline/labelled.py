"""Labelled text to prepared rows for the classifier, once a corpus.

The same roles as in pretraining, decided by the same hash: what validates
there validates here. Of the test documents, labels alone are looked at: all of
them must be known. A test split of its own is not read.
"""

import collections
import functools
import pathlib
from typing import Any

import numpy as np

from configs import schema
from input_pipeline import (
    blocks,
    cleaning,
    labelled_rows,
    manifest,
    packing,
    reading,
    sources,
)
from input_pipeline import roles as roles_lib
from input_pipeline import tokenizer as tokenizer_lib
from trainer import storage

_ROLES = ("train", "validation")
_COUNTED = (*_ROLES, "test")  # Where the source has no test split of its own.
_Labels = dict[str, collections.Counter[str]]  # By role.
_Packed = dict[str, tuple[np.ndarray, packing.RowCounts]]


class NoLabelsError(ValueError):
    """The text has no labels at all."""


def prepare(
    config: schema.Config, tokenizer: tokenizer_lib.Tokenizer
) -> pathlib.Path:
    """The directory with the labelled rows, made where it is missing.

    Raises:
      NoLabelsError: the text has none.
      ValueError: the source cannot be read, or its labels cannot be learned:
        some are missing, one class alone, or one that no training document
        has.
      OSError: the directory cannot be written, for want of space or rights.
    """
    if config.data.source == "text":
        raise NoLabelsError(
            "data.source=text has no labels; fine-tuning needs csv, jsonl or"
            " tfds with data.label_field."
        )
    units = sources.list_units(config.data)
    labelled = [unit for unit in units if unit.split == "train"]
    has_test = any(unit.split == "test" for unit in units)
    roles = roles_lib.of_source(config.data, units)
    identity = _identity(config, labelled, tokenizer, has_test=has_test)
    return manifest.made_once(
        config.data.prepared_dir,
        identity,
        lambda directory: _write_all(
            config, labelled, roles, tokenizer, directory
        ),
    )


def _identity(
    config: schema.Config,
    units: list[sources.Unit],
    tokenizer: tokenizer_lib.Tokenizer,
    *,
    has_test: bool,
) -> dict[str, Any]:
    """All that decides the content of the rows; JSON."""
    data = config.data
    return {
        "format": manifest.FORMAT,
        "purpose": "classification",
        "source": sources.fingerprint(data, units),
        "own_test": has_test,
        "text_field": data.text_field,
        "label_field": data.label_field,
        "validation_rate": data.validation_rate,
        "sequence_length": data.sequence_length,
        "packing": config.finetune.packing,
        "pieces_per_row": config.finetune.pieces_per_row,
        "tokenizer": tokenizer.kind,
        "vocabulary": storage.sha256_json(tokenizer.vocabulary),
    }


def _write_all(
    config: schema.Config,
    units: list[sources.Unit],
    roles: roles_lib.Roles,
    tokenizer: tokenizer_lib.Tokenizer,
    directory: pathlib.Path,
) -> dict[str, Any]:
    """Writes vocabulary and shards; returns the facts for the manifest."""
    tokenizer.save(directory)
    dtype = packing.slot_dtype(tokenizer.vocabulary_size)
    with reading.pool(__name__, config.data.num_processes, len(units)) as run:
        found: _Labels = {role: collections.Counter() for role in _COUNTED}
        task = functools.partial(_count_unit, config, roles, str(directory))
        num_documents = 1
        for counted, most in run(task, units):
            num_documents = max(num_documents, most)
            for role in _COUNTED:
                found[role].update(counted[role])
        layout = labelled_rows.Layout.of(config, num_documents)
        labels = _classes(config, found, largest=int(np.iinfo(dtype).max) - 1)
        writers = {
            role: blocks.BlockWriter(
                directory, role, manifest.rows_per_block(layout.width)
            )
            for role in _ROLES
        }
        totals = {role: packing.RowCounts() for role in _ROLES}
        encode = functools.partial(
            _encode_unit, config, roles, labels, layout, str(directory)
        )
        for packed in run(encode, units):
            for role, (rows, counts) in packed.items():
                writers[role].write(rows)
                totals[role].add(counts)
    return {
        "sequence_length": layout.length,
        "row_width": layout.width,
        "documents_per_row": layout.num_documents,
        "dtype": dtype.str,
        "rows_per_block": manifest.rows_per_block(layout.width),
        "labels": labels,
        "roles": {
            role: manifest.describe_role(writers[role], totals[role])
            for role in _ROLES
        },
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
                "labels": {name: found[role][name] for name in labels},
            }
            for role in _ROLES
        },
    }


def _count_unit(
    config: schema.Config,
    roles: roles_lib.Roles,
    directory: str,
    unit: sources.Unit,
) -> tuple[_Labels, int]:
    """How often each label occurs, and S for the first documents."""
    tokenizer = tokenizer_lib.load_once(directory)
    counts: _Labels = {role: collections.Counter() for role in _COUNTED}
    first: list[reading.CleanDocument] = []
    for batch in reading.in_batches(
        reading.documents(config, unit, roles, cleaning.Counts())
    ):
        first = first or batch
        for role, _, label in batch:
            if role in counts:
                counts[role][label] += 1
    return counts, labelled_rows.num_documents(
        tokenizer.encode([item.text for item in first]),
        labelled_rows.Layout.of(config),
        wrap=tokenizer.wrap,
        num_wrapping=tokenizer.num_wrapping,
    )


def _classes(
    config: schema.Config, found: _Labels, *, largest: int
) -> list[str]:
    """The names of the classes, numbers by size, else by alphabet."""
    field = f"data.label_field={config.data.label_field!r}"
    train, total = found["train"], sum(found.values(), collections.Counter())
    if set(train) == {""}:
        raise NoLabelsError(
            f"{field}: no document has a label; if another field holds it, name"
            " that one with --config.data.label_field."
        )
    if total[""]:
        raise ValueError(
            f"{field}: {total['']:,} of {total.total():,} documents have no"
            " label. Give each one, or leave those documents out; another run"
            " can pretrain on all of them before (init_from)."
        )
    unseen = sorted(set(total) - set(train))
    if unseen:
        raise ValueError(
            f"{field}: {', '.join(map(repr, unseen[:5]))} occurs in no training"
            " document, but in those that were set aside for validation or"
            " test, so it could not be learned. Give more documents of it, or"
            " leave it out."
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
        return False, float(label), label
    except ValueError:
        return True, 0.0, label


def _encode_unit(
    config: schema.Config,
    roles: roles_lib.Roles,
    labels: list[str],
    layout: labelled_rows.Layout,
    directory: str,
    unit: sources.Unit,
) -> _Packed:
    """Stored rows of one unit, by role."""
    tokenizer = tokenizer_lib.load_once(directory)
    number = {name: index for index, name in enumerate(labels)}
    documents: dict[str, list[tuple[np.ndarray, int]]] = {
        role: [] for role in _ROLES
    }
    for batch in reading.in_batches(
        reading.documents(config, unit, roles, cleaning.Counts())
    ):
        used = [item for item in batch if item.role in documents]
        ids = tokenizer.encode([item.text for item in used])
        for item, tokens in zip(used, ids, strict=True):
            documents[item.role].append((tokens, number[item.label]))
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
