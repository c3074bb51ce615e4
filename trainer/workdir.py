"""The directory of a run: its lock, and the config that it began with."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import storage
from configs import schema

_PACKAGES = ("tensorflow", "tensorflow-tpu", "keras", "keras-hub", "numpy")


@contextlib.contextmanager
def locked(path: str, *, chief: bool = True) -> Iterator[None]:
    """Keeps a second trainer out; only the chief of a cluster takes it.

    Raises:
      ValueError: another process trains there.
    """
    if not chief:
        yield
        return
    with storage.exclusive(
        storage.path_of(path) / ".lock",
        wait=False,
        busy=f"Another trainer is at work in {path}; wait for it, or choose"
        " another --workdir.",
    ):
        yield


def read(path: str) -> dict[str, Any]:
    """What `record` wrote, or {}: config, resolved values, versions."""
    file = storage.path_of(path) / "config.json"
    if not file.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        # An older version may have had fewer sections, but not without these.
        known = {"data", "model"} <= {*content["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_damaged(file, repr(error))) from error
    if not known:
        raise ValueError(_damaged(file, "it lacks sections"))
    return content


def versions() -> dict[str, str]:
    """The versions of the packages on which the numbers of a run depend.

    Packages that are not installed are left out: on a TPU VM, TensorFlow has
    another name.
    """
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def record(path: str, config: schema.Config, resolved: dict[str, Any]) -> None:
    """Writes config.json: the config, what `auto` became, versions."""
    content = {
        "config": config.to_dict(),
        "resolved": resolved,
        "versions": versions(),
    }
    storage.write_json(storage.path_of(path) / "config.json", content)


def _damaged(file: pathlib.Path, why: str) -> str:
    return (
        f"{file} is damaged ({why}); restore it, or choose another --workdir."
    )


def stages(path: str) -> set[str]:
    """The stages with a checkpoint: "pretrain", "finetune_seed1" and so on."""
    found = storage.complete(path, "checkpoints/*/step-*")
    return {
        p.parent.name.removesuffix("_frozen")
        for p in found
        if p.name.removeprefix("step-").isdigit()
    }
