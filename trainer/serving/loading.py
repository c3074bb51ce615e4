"""Reading an export with TensorFlow alone: no model of ours is built.

N texts.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

import storage
from trainer.serving import operations

DIRECTORY = "export"  # In the workdir.
FOLDER = "saved_model"  # In the export.
# Of the facts in the manifest; raised whenever a reader has to change.
FORMAT = 1
_Signature = Callable[..., dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Exported:
    """An export directory, verified and loaded.

    Attributes:
      facts: its manifest: labels, max_masks, top_k, tokenizer, config, ….
      signatures: by name; each takes `text`, string [N].
    """

    facts: dict[str, Any]
    signatures: dict[str, _Signature]


def directory_of(workdir: str, chosen: str = "") -> str:
    """The export directory of a run, or another one that was chosen.

    Raises:
      ValueError: it does not exist.
    """
    directory = chosen or str(storage.path_of(workdir) / DIRECTORY)
    if not storage.path_of(directory).is_dir():
        raise ValueError(
            f"{directory} is no directory; make it with --mode=export, or name"
            " another with --config.predict.export_dir."
        )
    below = storage.path_of(directory) / DIRECTORY
    if below.is_dir() and not (storage.path_of(directory) / FOLDER).is_dir():
        raise ValueError(
            f"{directory} is a workdir; its export is {below}, use"
            f" --config.predict.export_dir={below}."
        )
    return directory


def load(directory: str | pathlib.Path) -> Exported:
    """Verifies an export directory and loads its SavedModel.

    Raises:
      ValueError: a file is missing or changed, it is no export of this
        format, or its graph has operations that no export has.
    """
    try:
        facts = storage.verify(directory)
    except storage.DamagedError as error:
        raise storage.DamagedError(
            f"{error} Export again with --mode=export, or restore"
            f" {directory} from a copy."
        ) from error
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{directory} is no export of format {FORMAT}, but"
            f" {facts.get('format')!r}; export again with --mode=export."
        )
    folder = str(storage.path_of(directory) / FOLDER)
    operations.check(folder)
    module = tf.saved_model.load(folder)
    # The module owns the variables: without it they are gone.
    signatures = {
        name: _keeping(module, module.signatures[name])
        for name in facts["signatures"]
    }
    return Exported(facts, signatures)


def _keeping(module: Any, function: Any) -> _Signature:
    def call(text: tf.Tensor) -> dict[str, tf.Tensor]:
        assert module is not None
        return function(text=text)

    return call
