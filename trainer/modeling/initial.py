"""Pretrained weights to start training from, and whether they fit."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from configs import schema

# These fields may differ: they say how weights are trained, not what they mean.
_FREE = ("dropout", "attention_dropout", "initializer_range")
_POSITIONS = "encoder/position_embedding/embeddings"


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object; raises ValueError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing.") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object.")
    return content


class Weights(NamedTuple):
    """Arrays by the path of our variable, and the names of those left out."""

    arrays: dict[str, np.ndarray]
    dropped: list[str]

    def assign(self, variables: Sequence[keras.Variable]) -> "Weights":
        """Assigns each variable the array of its path.

        A position table with more rows than the variable is cut. Arrays of
        other paths are ignored, so the variables may be a part of a model.

        Returns:
          What was assigned, and what was cut off or left out before.

        Raises:
          ValueError: an array has another shape; then nothing is assigned.
        """
        assigned: dict[str, np.ndarray] = {}
        dropped = list(self.dropped)
        for variable in variables:
            array = self.arrays.get(variable.path)
            if array is None:
                continue
            rows = variable.shape[0]
            if variable.path == _POSITIONS and len(array) > rows:
                dropped.append(f"{_POSITIONS} {rows} to {len(array) - 1}")
                array = array[:rows]
            if array.shape != tuple(variable.shape):
                raise ValueError(
                    f"{variable.path} has shape {array.shape} where training"
                    f" starts from, and {tuple(variable.shape)} here."
                )
            assigned[variable.path] = array
        for variable in variables:
            if variable.path in assigned:
                variable.assign(assigned[variable.path])
        return Weights(assigned, dropped)


@dataclasses.dataclass(frozen=True)
class Initial:
    """A pretrained model on the disk.

    Attributes:
      path: its folder.
      form: what the folder is, for messages.
      kind: the kind of the vocabulary, such as "wordpiece".
      lowercase: whether text is made lower case first.
      vocabulary: the tokens by id, [V].
      model_config: the shape of the model.
      sequence_length: L, how many positions it knows.
      read_weights: reads float32 arrays, those of the encoder and, if there
        is one, of the masked-LM head; raises ValueError if they are damaged or
        do not fit `model_config`.
    """

    path: str
    form: str
    kind: str
    lowercase: bool
    vocabulary: Sequence[str]
    model_config: schema.ModelConfig
    sequence_length: int
    read_weights: Callable[[], Weights]

    def check_fits(self, config: schema.Config) -> None:
        """Compares model, vocabulary and row length with those of a config.

        Raises:
          ValueError: they differ; names the flags that make them equal.
        """
        pairs: dict[str, tuple[Any, Any]] = {
            "tokenizer.kind": (self.kind, config.tokenizer.kind),
            "tokenizer.lowercase": (
                self.lowercase,
                config.tokenizer.lowercase,
            ),
        }
        here = dataclasses.asdict(config.model)
        for name, there in dataclasses.asdict(self.model_config).items():
            if name not in _FREE:
                pairs[f"model.{name}"] = (there, here[name])
        length = config.data.sequence_length
        if self.model_config.positions == "learned":
            longest = min(length, self.sequence_length)
            pairs["data.sequence_length"] = (longest, length)
        differing = {n: pair for n, pair in pairs.items() if pair[0] != pair[1]}
        if not differing:
            return
        lines = [
            f"{n} is {a} there, {b} here" for n, (a, b) in differing.items()
        ]
        flags = [f"--config.{n}={a}" for n, (a, _) in differing.items()]
        raise ValueError(
            f"init_from={self.path} ({self.form}) does not fit this config:"
            f" {'; '.join(lines)}. Add {' '.join(flags)} or start from"
            " another model."
        )
