"""Directories of prepared rows: written once, described, opened."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

import storage
from input_pipeline import label_sets
from input_pipeline import tokenizer as tokenizer_lib

# Part of the fingerprint; raised whenever the same text gives other rows.
FORMAT = 4
# A block (one TFRecord) of about this many slots; a window of this many rows.
_BLOCK_SLOTS = 16_384
_WINDOW_ROWS = 2_048
# Up to this size every shard's sha256 is compared at the start; TFRecord's
# own checksum guards every block when it is read, whatever the size.
_FULL_CHECK_BYTES = 2**31


@dataclasses.dataclass(frozen=True)
class Role:
    """The rows of one role, "train" or "validation", in their shards."""

    files: tuple[str, ...]
    blocks: tuple[int, ...]  # For every file.
    num_rows: int
    num_documents: int
    num_tokens: int  # Slots that are not padding.

    @property
    def num_blocks(self) -> int:
        """Blocks in all files; the last one may be short."""
        return sum(self.blocks)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """Prepared rows, opened and checked."""

    directory: pathlib.Path
    fingerprint: str
    sequence_length: int  # L
    dtype: np.dtype  # Of a stored slot.
    rows_per_block: int  # K
    roles: dict[str, Role]
    tokenizer: tokenizer_lib.Tokenizer
    report: dict[str, Any]  # What was read, kept and dropped.
    row_width: int  # Numbers stored for a row; L where there are no labels.
    labels: tuple[str, ...] = ()  # Names of the classes, of labelled rows.
    # Where documents may have several labels: what a row stores as a label is
    # the number of a set of classes, which are given by number.
    label_sets: tuple[tuple[int, ...], ...] = ()
    documents_per_row: int = 0  # S, of labelled rows.

    @property
    def multilabel(self) -> bool:
        """Whether documents may have several labels, or none."""
        return bool(self.label_sets)

    @property
    def label_table(self) -> np.ndarray:
        """bool [label sets, C]: which classes each set has."""
        table = np.zeros([len(self.label_sets), len(self.labels)], bool)
        for row, classes in zip(table, self.label_sets, strict=True):
            row[[*classes]] = True
        return table

    @property
    def stored_labels(self) -> list[str]:
        """The labels of documents, in the order of their numbers in a row."""
        if not self.multilabel:
            return [*self.labels]
        return label_sets.of_classes(self.labels, self.label_sets)

    @property
    def block_bytes(self) -> int:
        """Payload of a full block."""
        return self.rows_per_block * self.row_width * self.dtype.itemsize

    @property
    def blocks_per_window(self) -> int:
        """W: rows are shuffled inside this many blocks."""
        return max(1, _WINDOW_ROWS // self.rows_per_block)


def directory_of(prepared_dir: str, identity: dict[str, Any]) -> pathlib.Path:
    """Where `made_once` puts this content, whether it has been made or not."""
    return storage.path_of(prepared_dir) / storage.sha256_json(identity)[:16]


def made_once(
    prepared_dir: str,
    identity: dict[str, Any],
    write: Callable[[pathlib.Path], dict[str, Any]],
) -> pathlib.Path:
    """The directory with this content; `write` fills it if it is missing.

    Args:
      prepared_dir: shared by all runs.
      identity: all that decides the content, JSON; its digest is the name.
      write: fills a temporary directory; returns facts for the manifest.
    """
    directory = directory_of(prepared_dir, identity)
    parent, fingerprint = directory.parent, directory.name
    with storage.exclusive(parent / f"{fingerprint}.lock", wait=True):
        if not storage.complete(parent, fingerprint):
            # In an object store, another host may be writing the same bytes.
            if not storage.in_store(parent):
                storage.remove_unfinished(parent, fingerprint)
            facts = {"fingerprint": fingerprint, "identity": identity}
            with storage.new_directory(directory, facts=facts) as temporary:
                facts |= write(temporary)
    return directory


def rows_per_block(row_width: int) -> int:
    """K."""
    return max(1, _BLOCK_SLOTS // row_width)


def open_prepared(directory: str | pathlib.Path) -> Prepared:
    """Opens what `prepare` wrote; raises DamagedError naming a bad file."""
    directory = storage.path_of(directory)
    try:
        facts = storage.read_manifest(directory)
        _verify(directory, facts)
        return _create(directory, facts)
    except storage.DamagedError as error:
        raise storage.DamagedError(
            f"{error} Delete {directory} and start again; it will be made anew."
        ) from error
    except (KeyError, TypeError) as error:
        raise storage.DamagedError(
            f"{directory / storage.MANIFEST} is not that of prepared rows: it"
            f" lacks {error}."
        ) from error


def _verify(directory: pathlib.Path, facts: dict[str, Any]) -> None:
    """Compares the files with the manifest; large shards by size alone."""
    files = facts["files"]
    total = sum(file["bytes"] for file in files.values())
    is_small = total <= _FULL_CHECK_BYTES
    storage.verify(directory, content=is_small)
    if is_small:
        return
    for name in files:
        path = directory / name
        sha256 = files[name]["sha256"]
        if path.suffix != ".tfrecord" and storage.sha256_file(path) != sha256:
            raise storage.DamagedError(
                f"{path} is damaged: its sha256 differs."
            )


def _create(directory: pathlib.Path, facts: dict[str, Any]) -> Prepared:
    return Prepared(
        directory=directory,
        fingerprint=facts["fingerprint"],
        sequence_length=facts["sequence_length"],
        dtype=np.dtype(facts["dtype"]),
        rows_per_block=facts["rows_per_block"],
        roles={
            name: Role(
                files=tuple(str(directory / file) for file in role["files"]),
                blocks=tuple(role["blocks"]),
                num_rows=role["num_rows"],
                num_documents=role["num_documents"],
                num_tokens=role["num_tokens"],
            )
            for name, role in facts["roles"].items()
        },
        tokenizer=tokenizer_lib.load(directory),
        report=facts["report"],
        row_width=facts.get("row_width", facts["sequence_length"]),
        labels=tuple(facts.get("labels", ())),
        label_sets=tuple(map(tuple, facts.get("label_sets", ()))),
        documents_per_row=facts.get("documents_per_row", 0),
    )
