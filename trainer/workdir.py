"""The directory of a run: who may write to it, and what it was started with."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import storage
from configs import schema

# Of data: where and how it is prepared, not what it is.
FREE_DATA = ("prepared_dir", "num_processes")
_FIXED = ("seed", "data", "tokenizer", "masking", "model")
# Of finetune: what its rows and its model are made of.
_FIXED_FINETUNE = (
    "seed",
    "from_scratch",
    "frozen_epochs",
    "global_batch_size",
    "packing",
    "pieces_per_row",
    "pooling",
    "hidden_size",
)
_FREE_FINETUNE = (
    "num_seeds",
    "num_steps",
    "num_epochs",
    "self_training_rounds",
    "patience",
    "ngrams",
    "encoder",
)
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
        known = {*_FIXED, "optimizer", "train"} <= {*content["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_damaged(file, repr(error))) from error
    if not known:
        raise ValueError(_damaged(file, "it lacks sections"))
    return content


def versions() -> dict[str, str]:
    """Of the packages on which the numbers of a run depend.

    Those that are installed: on a TPU VM, TensorFlow has another name.
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


def check(path: str, config: schema.Config) -> dict[str, Any]:
    """What was recorded, after comparing it with this config.

    Raises:
      ValueError: the workdir holds a run of another seed, data, tokenizer,
        masking, model, init_from, global batch, classifier or choice of the
        best checkpoint; or of another optimizer or way to fine-tune, and
        `checkpoint.allow_changed` is not set. Every difference is shown.
    """
    recorded, begun = read(path), stages(path)
    if not recorded or not begun:
        return {}
    before, now = _completed(recorded["config"]), config.to_dict()
    fixed = _differences(_fixed(before, begun), _fixed(now, begun))
    guarded = _differences(_guarded(before, begun), _guarded(now, begun))
    if fixed:
        raise ValueError(
            f"{path} holds another run: {'; '.join(fixed)}. Go on with its"
            f" config, --config={path}/config.json, or choose another"
            " --workdir."
        )
    if guarded and not config.checkpoint.allow_changed:
        raise ValueError(
            f"{path} was trained in another way:"
            f" {'; '.join(guarded)}. Set checkpoint.allow_changed to go on"
            " with the new one, or choose another --workdir."
        )
    return recorded


def _completed(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded config, with the defaults of knobs that came later."""
    return {
        name: {**default, **recorded.get(name, {})}
        if isinstance(default, dict)
        else recorded.get(name, default)
        for name, default in schema.Config().to_dict().items()
    }


def _damaged(file: pathlib.Path, why: str) -> str:
    return (
        f"{file} is damaged ({why}); restore it, or choose another --workdir."
    )


def stages(path: str) -> set[str]:
    """Which have a checkpoint: "pretrain", "finetune", "finetune_seed1"."""
    found = storage.complete(path, "checkpoints/*/step-*")
    return {
        p.parent.name.removesuffix("_frozen")
        for p in found
        if p.name.removeprefix("step-").isdigit()
    }


def _fixed(config: dict[str, Any], stages: set[str]) -> dict[str, Any]:
    """What a run never changes, of a recorded or a new config."""
    fixed = {name: config[name] for name in _FIXED}
    # The vocabulary came from there.
    fixed["init_from"] = config["init_from"]
    fixed["data"] = {
        k: v for k, v in config["data"].items() if k not in FREE_DATA
    }
    # Another test file is another evaluation; that there is one decides what
    # else is set aside.
    fixed["data"]["test_path"] = "a file" if config["data"]["test_path"] else ""
    if "pretrain" in stages:
        size = config["train"]["global_batch_size"]
        fixed["train"] = {"global_batch_size": size}
    if "finetune" in stages:
        best_by = config["checkpoint"]["best_by"]
        fixed["checkpoint"] = {"best_by": best_by}
        section = config["finetune"]
        fixed["finetune"] = {name: section[name] for name in _FIXED_FINETUNE}
    return fixed


def _guarded(config: dict[str, Any], stages: set[str]) -> dict[str, Any]:
    """What changes only where `checkpoint.allow_changed` says so."""
    guarded = {"optimizer": config["optimizer"]}
    if "finetune" in stages:
        guarded["finetune"] = {
            name: value
            for name, value in config["finetune"].items()
            if name not in (*_FIXED_FINETUNE, *_FREE_FINETUNE)
        }
    return guarded


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
