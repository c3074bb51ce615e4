"""Checkpoints of a run: arrays and a few facts, written whole or not at all.

checkpoints/<stage>/step-000001234/
  weights.safetensors, optimizer.safetensors   names = variable paths
  state.json                                   step, facts, what it was made
                                               from; < 4 KB
  manifest.json                                sizes and sha256, last
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

import storage

if TYPE_CHECKING:  # It takes seconds, and who only looks for files needs none.
    import keras

_log = logging.getLogger(__name__)
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"
# Only float16 has these; a run may change its precision when it goes on.
_LOSS_SCALE = "loss_scale/"


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of one stage of a run.

    A run deletes only its own: the checkpoint that it restored, those before
    that, and those that it has saved since. A later one is damaged or another
    trainer's, and stays; a damaged one is replaced when its step is saved.

    Attributes:
      directory: `<workdir>/checkpoints/<stage>`.
      keep_last: how many of the newest are kept, besides the best.
    """

    directory: pathlib.Path
    keep_last: int = 3
    _own: set[int] = dataclasses.field(default_factory=set, init=False)

    def save(
        self,
        state: dict[str, Any],
        *,
        weights: "list[keras.Variable]",
        optimizer: "list[keras.Variable]",
    ) -> None:
        """Writes a checkpoint of `state["step"]` and deletes old ones.

        Raises:
          ValueError: another trainer has saved this step meanwhile.
        """
        storage.remove_unfinished(self.directory, "step-*")
        step = state["step"]
        path = self._path(step)
        if path in self._newest_first() and step not in self._own:
            with contextlib.suppress(storage.DamagedError):
                _verify(path)
                raise ValueError(
                    f"{path} has been saved by another trainer, which this one"
                    " does not overwrite. Let one trainer at a time work in a"
                    " --workdir; the same command goes on from there."
                )
        with storage.new_directory(path, facts={}, replace=True) as temporary:
            _write_arrays(temporary / _WEIGHTS, weights)
            _write_arrays(temporary / _OPTIMIZER, optimizer)
            (temporary / _STATE).write_text(json.dumps(state) + "\n")
        self._own.add(step)
        own = [p for p in self._newest_first() if _step_of(p) in self._own]
        # A later one of its own has weights that have been replaced since.
        present = [p for p in own if _step_of(p) <= step]
        kept = {*present[: self.keep_last], best_of(present)}
        for old in own:
            if old not in kept:
                storage.remove_directory(old)

    def restore(
        self,
        *,
        weights: "list[keras.Variable]",
        optimizer: "list[keras.Variable]",
    ) -> dict[str, Any]:
        """Loads the newest good checkpoint; returns its state, {} without one.

        Everything is verified before anything is assigned. A damaged
        checkpoint is named, left where it is, and the one before is taken.

        Raises:
          ValueError: all are damaged, or one does not fit these variables.
        """
        for path in self._newest_first():
            try:
                _verify(path)
                arrays = _read_arrays(path / _WEIGHTS)
                slots = _read_arrays(path / _OPTIMIZER)
                state = read_state(path)
            except (storage.DamagedError, FileNotFoundError) as error:
                _log.warning(
                    "Damaged checkpoint: %s Going back to the one before.",
                    error,
                )
                continue
            for variable, array in [
                *_fitting(path / _WEIGHTS, arrays, weights),
                *_fitting(path / _OPTIMIZER, slots, optimizer),
            ]:
                variable.assign(array)
            steps = map(_step_of, self._newest_first())
            self._own = {step for step in steps if step <= state["step"]}
            return state
        if self._newest_first():
            raise ValueError(
                f"Every checkpoint in {self.directory} is damaged; bring one"
                " back from a copy, or delete them all to start anew."
            )
        return {}

    def exist(self) -> bool:
        """Whether there is any checkpoint, even a damaged one."""
        return bool(self._newest_first())

    def last_step(self) -> int:
        """The step of the newest checkpoint, even a damaged one; 0 = none."""
        return max(map(_step_of, self._newest_first()), default=0)

    def last_state(self) -> dict[str, Any]:
        """The state of the newest checkpoint with a readable one, else {}."""
        for path in self._newest_first():
            with contextlib.suppress(FileNotFoundError, ValueError):
                return read_state(path)
        return {}

    def best(self, *, verify: bool = True) -> pathlib.Path:
        """The best checkpoint in validation, or the newest without validation.

        The lowest loss is the best; if the state says `best_by` "accuracy",
        the highest accuracy, and the loss decides between equals.

        Args:
          verify: leave damaged ones out, for which every file is read.

        Raises:
          ValueError: there is no complete checkpoint.
        """
        complete = []
        for path in self._newest_first():
            try:
                if verify:
                    _verify(path)
                complete.append(path)
            except storage.DamagedError as error:
                _log.warning("Damaged checkpoint: %s", error)
        if not complete:
            raise ValueError(
                f"{self.directory} holds no complete checkpoint; train first."
            )
        return best_of(complete)

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / f"step-{step:09d}"

    def _newest_first(self) -> list[pathlib.Path]:
        found = storage.complete(self.directory, "step-*")
        return sorted(
            (p for p in found if p.name.removeprefix("step-").isdigit()),
            key=_step_of,
            reverse=True,
        )


def of_stage(
    workdir: str | os.PathLike[str], stage: str, *, keep_last: int = 3
) -> Checkpoints:
    """The checkpoints of a stage of a run; there may be none yet."""
    return Checkpoints(
        storage.path_of(workdir) / "checkpoints" / stage, keep_last=keep_last
    )


def best_of(paths: Sequence[pathlib.Path]) -> pathlib.Path:
    """The best of these checkpoints in validation; the first of equals."""
    return min(paths, key=_rank)


def read_weights(path: pathlib.Path, variables: "list[keras.Variable]") -> None:
    """Assigns the weights of a checkpoint to a model, or to a part of it.

    Raises:
      ValueError: a variable is missing in the checkpoint or has another
        shape. Nothing has been assigned then.
    """
    arrays = weights_of(path)
    wanted = {variable.path for variable in variables}
    part = {name: arrays[name] for name in wanted & set(arrays)}
    for variable, array in _fitting(path / _WEIGHTS, part, variables):
        variable.assign(array)


def read_state(path: pathlib.Path) -> dict[str, Any]:
    """The state that `save` was given: step, validation_loss and so on."""
    state: dict[str, Any] = json.loads((path / _STATE).read_text())
    return state


def weights_of(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The weights of a checkpoint by variable path, float32."""
    return _read_arrays(path / _WEIGHTS)


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = (
        safetensors.numpy.load(path.read_bytes())
        if storage.in_store(path)
        else safetensors.numpy.load_file(path)
    )
    return arrays


def _fitting(
    path: pathlib.Path,
    arrays: dict[str, np.ndarray],
    variables: "list[keras.Variable]",
) -> "list[tuple[keras.Variable, np.ndarray]]":
    """Every variable with the array of its path.

    Args:
      path: the file, for error messages.
      arrays: its content, by variable path.
      variables: the variables to assign.

    Raises:
      ValueError: names or shapes differ.
    """
    wanted = {variable.path: variable for variable in variables}
    differing = sorted(
        name
        for name in set(wanted) ^ set(arrays)
        if not name.startswith(_LOSS_SCALE)
    )
    if differing:
        raise ValueError(
            f"{path} does not fit this model: it and the model differ in"
            f" {len(differing)} variable(s), the first of them {differing[0]}."
        )
    pairs = [(wanted[name], arrays[name]) for name in set(wanted) & set(arrays)]
    for variable, array in pairs:
        if tuple(variable.shape) != array.shape:
            raise ValueError(
                f"{path} does not fit this model: {variable.path} has shape"
                f" {array.shape} there and {tuple(variable.shape)} here."
            )
    return pairs


def _write_arrays(
    path: pathlib.Path, variables: "list[keras.Variable]"
) -> None:
    arrays = {
        # Zero-dimensional arrays must stay arrays.
        variable.path: np.asarray(variable.numpy())
        for variable in variables
    }
    assert len(arrays) == len(variables), "variable paths must be unique"
    try:
        safetensors.numpy.save_file(arrays, path)
    except safetensors.SafetensorError as error:
        # The library hides the number of the system's error.
        number = re.search(r"os error (\d+)", str(error))
        if not number:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def _verify(path: pathlib.Path) -> None:
    """Raises DamagedError; hashes files that stay as they are only once."""
    files = []
    for file in sorted(path.glob("*")):
        found: Any = file.stat()
        size_and_time = (
            (found.length, found.mtime)
            if storage.in_store(file)
            else (found.st_size, found.st_mtime_ns)
        )
        files.append((file.name, *size_and_time))
    _verify_once(path, tuple(files))


@functools.cache
def _verify_once(path: pathlib.Path, files: tuple[Any, ...]) -> None:
    storage.verify(path)


def _step_of(path: pathlib.Path) -> int:
    return int(path.name.removeprefix("step-"))


def _rank(path: pathlib.Path) -> tuple[float, float]:
    """Sort key: the lowest is the best; inf = not measured."""
    try:
        state = read_state(path)
        loss = float(state.get("validation_loss", math.inf))
        accuracy = float(state.get("validation_accuracy", -math.inf))
    except (OSError, ValueError):
        return math.inf, math.inf
    loss = loss if math.isfinite(loss) else math.inf
    # At most 0, so that it comes before one without a recorded accuracy.
    by_accuracy = state.get("best_by") == "accuracy"
    return (-accuracy if by_accuracy else loss), loss
