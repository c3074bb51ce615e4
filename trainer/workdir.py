"""The directory of a run: who may write to it, and what it was started with."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from configs import schema
from trainer import storage

# Of data: where and how it is prepared, not what it is.
_FREE_DATA = ("prepared_dir", "num_processes")
_FIXED = ("seed", "data", "tokenizer", "masking", "model")
_PACKAGES = ("tensorflow", "keras", "keras-hub", "numpy")


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
        pathlib.Path(path) / ".lock",
        wait=False,
        busy=f"Another trainer is at work in {path}; wait for it, or choose"
        " another --workdir.",
    ):
        yield


def read(path: str) -> dict[str, Any]:
    """What `record` wrote, or {}: config, resolved values, versions."""
    file = pathlib.Path(path) / "config.json"
    if not file.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        known = {*_FIXED, "optimizer", "train"} <= {*content["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_damaged(file, repr(error))) from error
    if not known:
        raise ValueError(_damaged(file, "it lacks sections"))
    return content


def record(path: str, config: schema.Config, resolved: dict[str, Any]) -> None:
    """Writes config.json: the config, what `auto` became, versions."""
    versions = {name: metadata.version(name) for name in _PACKAGES}
    content = {
        "config": config.to_dict(),
        "resolved": resolved,
        "versions": versions,
    }
    storage.write_json(pathlib.Path(path) / "config.json", content)


def check(path: str, config: schema.Config) -> dict[str, Any]:
    """What was recorded, after comparing it with this config.

    Raises:
      ValueError: the workdir holds a run of another seed, data, tokenizer,
        masking, model or global batch; or of another optimizer, and
        `checkpoint.allow_changed` is not set. Every difference is shown.
    """
    recorded = read(path)
    if not recorded or not _has_checkpoint(path):
        return {}
    before, now = _comparable(recorded["config"]), _comparable(config.to_dict())
    fixed = _differences(before, now)
    guarded = _differences(
        {"optimizer": recorded["config"]["optimizer"]},
        {"optimizer": config.to_dict()["optimizer"]},
    )
    if fixed:
        raise ValueError(
            f"{path} holds another run: {'; '.join(fixed)}. Go on with its"
            " config, or choose another --workdir."
        )
    if guarded and not config.checkpoint.allow_changed:
        raise ValueError(
            f"{path} was trained with another optimizer:"
            f" {'; '.join(guarded)}. Set checkpoint.allow_changed to go on"
            " with the new one, or choose another --workdir."
        )
    return recorded


def _damaged(file: pathlib.Path, why: str) -> str:
    return (
        f"{file} is damaged ({why}); restore it, or choose another --workdir."
    )


def _has_checkpoint(path: str) -> bool:
    found = pathlib.Path(path).glob("checkpoints/*/step-*")
    return any(p.name.removeprefix("step-").isdigit() for p in found)


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    fixed = {name: config[name] for name in _FIXED}
    fixed["data"] = {
        k: v for k, v in config["data"].items() if k not in _FREE_DATA
    }
    size = config["train"]["global_batch_size"]
    return {**fixed, "train": {"global_batch_size": size}}


def _differences(
    before: dict[str, Any], now: dict[str, Any], prefix: str = ""
) -> list[str]:
    lines = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name} was {old!r}, now {new!r}")
    return lines
