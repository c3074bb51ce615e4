"""A trace of some steps, for the profiler of TensorBoard."""

import logging
import pathlib
from typing import Self

import tensorflow as tf

_log = logging.getLogger(__name__)


class Trace:
    """Records some steps; the end of the block ends a recording early.

    Args:
      directory: where `plugins/profile` is created.
      steps: the first step to record and the one after the last; nothing is
        recorded if both are 0.
    """

    def __init__(
        self, directory: str | pathlib.Path, steps: tuple[int, int] = (0, 0)
    ) -> None:
        self._directory = str(directory)
        self._first, self._end = steps
        self._records = False

    def at(self, step: int) -> None:
        """Starts or ends the recording if this is the step to do so."""
        if self._records and step >= self._end:
            self._write()
        elif not self._records and self._first <= step < self._end:
            tf.profiler.experimental.start(self._directory)
            self._records = True

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the recording, if one has begun."""
        if self._records:
            self._write()

    def _write(self) -> None:
        tf.profiler.experimental.stop()
        self._records = False
        _log.info(
            "trace:   %s/plugins/profile; TensorBoard shows it with the"
            " package tensorboard-plugin-profile",
            self._directory,
        )
