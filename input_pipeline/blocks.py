"""Rows to TFRecord shards: a record is a block of K rows of L slots."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

_SHARD_BYTES = 2**26


class BlockWriter:
    """Writes the shards of one role; of their blocks only the last is short.

    <role>-00000.tfrecord, <role>-00001.tfrecord, ...; none for no rows.
    """

    def __init__(self, directory: pathlib.Path, role: str, rows_per_block: int):
        self._directory = directory
        self._role = role
        self._rows_per_block = rows_per_block
        self._waiting: list[np.ndarray] = []  # Less than a block of rows.
        self._num_rows = 0
        self._files: list[str] = []
        self._blocks: list[int] = []
        self._writer: tf.io.TFRecordWriter | None = None
        self._bytes_left = 0

    def write(self, rows: np.ndarray) -> None:
        """Appends slots [rows, L]; raises OSError where no space is left."""
        self._num_rows += len(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) < self._rows_per_block:
            return
        rows = np.concatenate(self._waiting)
        full = len(rows) // self._rows_per_block * self._rows_per_block
        for start in range(0, full, self._rows_per_block):
            self._write_block(rows[start : start + self._rows_per_block])
        self._waiting = [rows[full:]]

    def close(self) -> dict[str, Any]:
        """Writes what waits; returns `files`, `blocks` and `num_rows`."""
        if sum(map(len, self._waiting)):
            self._write_block(np.concatenate(self._waiting))
        self._close_shard()
        return {
            "files": self._files,
            "blocks": self._blocks,
            "num_rows": self._num_rows,
        }

    def _write_block(self, rows: np.ndarray) -> None:
        if self._writer is None or self._bytes_left < rows.nbytes:
            self._next_shard()
        assert self._writer is not None
        with self._space_left():
            self._writer.write(rows.tobytes())
        self._blocks[-1] += 1
        self._bytes_left -= rows.nbytes

    def _next_shard(self) -> None:
        self._close_shard()
        self._files.append(f"{self._role}-{len(self._files):05d}.tfrecord")
        self._blocks.append(0)
        self._bytes_left = _SHARD_BYTES
        with self._space_left():
            self._writer = tf.io.TFRecordWriter(self._path)

    def _close_shard(self) -> None:
        if self._writer is not None:
            with self._space_left():
                self._writer.close()

    @property
    def _path(self) -> str:
        return str(self._directory / self._files[-1])

    @contextlib.contextmanager
    def _space_left(self) -> Iterator[None]:
        """Python's OSError for TensorFlow's error of a full device."""
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:
            code = errno.ENOSPC
            raise OSError(code, os.strerror(code), self._path) from error
