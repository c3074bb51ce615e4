"""Checkpoints: arrays and a few facts, complete or not there at all.

    checkpoints/<stage>/step-000001234/
      weights.safetensors, optimizer.safetensors   names = variable paths
      state.json                                   step and facts, < 1 KB
      manifest.json                                sizes and sha256, last
"""

import dataclasses
import json
import logging
import pathlib
import shutil
from typing import Any

import keras
import numpy as np
import safetensors.numpy

from trainer import storage

_log = logging.getLogger(__name__)
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one stage of a run.

    Attributes:
      directory: `<workdir>/checkpoints/<stage>`.
      keep_last: how many are kept, besides the best by `validation_loss`.
    """

    directory: pathlib.Path
    keep_last: int = 3

    def save(
        self,
        state: dict[str, Any],
        *,
        weights: list[keras.Variable],
        optimizer: list[keras.Variable],
    ) -> None:
        """Writes a checkpoint of `state["step"]` and deletes old ones."""
        path = self._path(state["step"])
        if path.exists():
            shutil.rmtree(path)  # Written by a longer, undone future.
        with storage.new_directory(path, facts={}) as temporary:
            _write_arrays(temporary / _WEIGHTS, weights)
            _write_arrays(temporary / _OPTIMIZER, optimizer)
            (temporary / _STATE).write_text(json.dumps(state) + "\n")
        self._delete_old()

    def restore(
        self,
        *,
        weights: list[keras.Variable],
        optimizer: list[keras.Variable],
    ) -> dict[str, Any]:
        """Loads the newest good checkpoint; returns its state, {} if none.

        Everything is verified before anything is assigned. A damaged
        checkpoint is named, left where it is, and the one before is taken.
        """
        for path in self._newest_first():
            try:
                storage.verify(path)
            except storage.DamagedError as error:
                _log.warning(
                    "Damaged checkpoint: %s Going back to the one before.",
                    error,
                )
                continue
            read_arrays(path / _WEIGHTS, weights)
            read_arrays(path / _OPTIMIZER, optimizer)
            return _read_state(path)
        return {}

    def newest_state(self) -> dict[str, Any]:
        """The state that `restore` would return, without loading arrays."""
        for path in self._newest_first():
            try:
                storage.verify(path)
                return _read_state(path)
            except storage.DamagedError:
                continue
        return {}

    def best(self) -> pathlib.Path:
        """The checkpoint with the lowest validation loss, else the newest.

        Raises:
          ValueError: there is no complete checkpoint.
        """
        complete = []
        for path in self._newest_first():
            try:
                storage.verify(path)
                complete.append(path)
            except storage.DamagedError as error:
                _log.warning("Damaged checkpoint: %s", error)
        if not complete:
            raise ValueError(
                f"{self.directory} holds no complete checkpoint; train first."
            )
        return min(complete, key=_validation_loss)

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / f"step-{step:09d}"

    def _newest_first(self) -> list[pathlib.Path]:
        names = self.directory.glob("step-*")
        return sorted(
            (p for p in names if p.name.removeprefix("step-").isdigit()),
            reverse=True,
        )

    def _delete_old(self) -> None:
        storage.remove_unfinished(self.directory, "step-*")
        paths = self._newest_first()
        kept = set(paths[: self.keep_last])
        kept.add(min(paths, key=_validation_loss))
        for path in paths:
            if path not in kept:
                shutil.rmtree(path)


def read_arrays(path: pathlib.Path, variables: list[keras.Variable]) -> None:
    """Assigns a safetensors file to variables of the same paths.

    Raises:
      ValueError: names or shapes differ; nothing has been assigned then.
    """
    arrays = safetensors.numpy.load_file(path)
    wanted = {variable.path: variable for variable in variables}
    missing = sorted(set(wanted) ^ set(arrays))
    if missing:
        raise ValueError(
            f"{path} does not fit this model: it and the model differ in"
            f" {len(missing)} variable(s), the first of them {missing[0]}."
        )
    for name, variable in wanted.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise ValueError(
                f"{path} does not fit this model: {name} has shape"
                f" {arrays[name].shape} there and {tuple(variable.shape)} here."
            )
    for name, variable in wanted.items():
        variable.assign(arrays[name])


def _write_arrays(path: pathlib.Path, variables: list[keras.Variable]) -> None:
    arrays = {
        # Zero-dimensional arrays must stay arrays.
        variable.path: np.asarray(keras.ops.convert_to_numpy(variable))
        for variable in variables
    }
    assert len(arrays) == len(variables), "variable paths must be unique"
    safetensors.numpy.save_file(arrays, path)


def _read_state(path: pathlib.Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((path / _STATE).read_text())
    return state


def _validation_loss(path: pathlib.Path) -> float:
    try:
        return float(_read_state(path).get("validation_loss", float("inf")))
    except (OSError, ValueError):
        return float("inf")
