"""A config file, changed by the command line, checked and frozen."""

import ast
import dataclasses
import difflib
import json
import math
import pathlib
import runpy
import traceback
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from configs import schema

# What each type of field allows, as the errors say it.
_ALLOWED = {
    bool: "true or false",
    int: "a whole number such as 100",
    float: "a finite number such as 0.1",
    str: "text",
    tuple: "a list of strings such as \"['one', 'two']\"",
}


def _fields(cls: Any, prefix: str) -> Iterator[tuple[str, type]]:
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", typing.get_origin(kind) or kind


# Every field by its name on the command line: "config.train.num_steps" -> int.
FIELDS = dict(_fields(schema.Config, "config."))


def load_config(path: str, *, changes: Mapping[str, str]) -> schema.Config:
    """The checked config of a file after the changes of the command line.

        load_config("configs/sample.py", changes={"config.seed": "3"})

    Or of a run: load_config("runs/sample/config.json", ...).

    Raises ValueError, one line long, on whatever is wrong with either.
    """
    values = {
        name: read_value(name, text, FIELDS[name])
        for name, text in changes.items()
    }
    config = _run_config_file(path)
    _check_fields(path, dict(_flatten(config.to_dict(), "config.")))
    config.update_from_flattened_dict(values, strip_prefix="config.")
    return schema.Config.from_config_dict(config)


def _check_fields(path: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name not in FIELDS:
            raise ValueError(f"--config={path}: {unknown_name(name)}")
        if not _fits(value, FIELDS[name]):
            raise ValueError(
                f"--config={path}: {name}={value!r} must be"
                f" {_ALLOWED[FIELDS[name]]}."
            )
    for name in FIELDS:
        if name not in values:
            raise ValueError(
                f"--config={path}: {name} is missing; let get_config() start"
                " from schema.defaults()."
            )


def unknown_name(name: str, *, flags: Sequence[str] = ()) -> str:
    """What to say of a name that is no config field and none of `flags`."""
    section = name
    while not (inside := _inside(section, flags)):
        section = section.rpartition(".")[0]
    if name and name == section:
        return f"{name} is a section; its fields are {', '.join(inside)}."
    near = _nearest(name, section, inside)
    guess = f"did you mean {near}? The" if near else "the"
    place = f"fields of {section}" if section else "flags"
    return f"{name} does not exist; {guess} {place} are {', '.join(inside)}."


def _inside(section: str, flags: Sequence[str]) -> list[str]:
    if not section:
        return [*flags, "config.section.field"]
    start = f"{section}."
    inner = (name for name in FIELDS if name.startswith(start))
    return list(dict.fromkeys(n[len(start) :].split(".")[0] for n in inner))


def _nearest(name: str, section: str, inside: list[str]) -> str:
    leaf = f".{name.rpartition('.')[2]}"
    namesakes = [field for field in FIELDS if field.endswith(leaf)]
    if namesakes:
        close = difflib.get_close_matches(name, namesakes, n=1, cutoff=0.9)
        return " or ".join(close or namesakes)
    rest = name.removeprefix(f"{section}.") if section else name
    near = [*difflib.get_close_matches(rest, [*inside, *FIELDS], n=1), ""][0]
    return f"{section}.{near}" if section and near in inside else near


def read_value(name: str, text: str, kind: type) -> Any:
    """The value of a flag or config field from its text on the command line.

    read_value("config.train.num_steps", "30_000", int)      -> 30000
    read_value("config.evaluation.sentences", "['a']", tuple) -> ("a",)
    """
    if kind is str:
        return text
    try:
        value = ast.literal_eval(text.title() if kind is bool else text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = None
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if not _fits(value, kind):
        raise ValueError(f"--{name}={text} must be {_ALLOWED[kind]}.")
    return value


def _fits(value: Any, kind: type) -> bool:
    if kind is tuple:
        return isinstance(value, tuple) and all(type(v) is str for v in value)
    if kind is float:
        return isinstance(value, float) and math.isfinite(value)
    # To Python, True is an int as well.
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


def _flatten(
    values: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _run_config_file(path: str) -> ml_collections.ConfigDict:
    if not pathlib.Path(path).is_file():
        raise ValueError(
            f"--config={path} is not a file; name a Python file that defines"
            f" get_config(){_neighbour(path)}."
        )
    if path.endswith(".json"):
        return _read_record(path)
    try:
        get_config = runpy.run_path(path).get("get_config")
        config = get_config() if callable(get_config) else None
    except Exception as error:  # A user's program may raise anything.
        raise ValueError(
            f"--config={path} fails at line {_line(error, path)}:"
            f" {type(error).__name__}: {error}"
        ) from error
    if not callable(get_config):
        raise ValueError(
            f"--config={path} lacks get_config(); define it, and return"
            " schema.defaults() with your changes."
        )
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
            f"--config={path}: get_config() returned a"
            f" {type(config).__name__}; return schema.defaults() with your"
            " changes."
        )
    return ml_collections.ConfigDict(config)  # Not locked, not frozen.


def _read_record(path: str) -> ml_collections.ConfigDict:
    """The config that a run wrote to its `config.json`."""
    try:
        record = json.loads(pathlib.Path(path).read_text())
        config = schema.Config.from_dict(record["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--config={path} is not the config.json of a run: {error!r}; name"
            " that of a workdir, or a Python file that defines get_config()."
        ) from error
    return ml_collections.ConfigDict(dataclasses.asdict(config))


def _neighbour(path: str) -> str:
    folder = pathlib.Path(path).parent
    names = [str(p) for p in folder.glob("*.py") if p.stem != "__init__"]
    near = difflib.get_close_matches(path, names, n=1)
    return f", such as {near[0]}" if near else ""


def _line(error: Exception, path: str) -> int:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno or 0 for frame in frames if frame.filename == path]
    return lines[-1] if lines else getattr(error, "lineno", 0)
