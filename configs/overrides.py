"""A config file, the flags that change it, and the checked result.

`ml_collections.config_flags` makes every field of the config a flag, such as
`--config.train.num_steps=100`.
"""

import dataclasses
import difflib
import json
import math
import pathlib
import runpy
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from configs import checks, knobs, schema

# What each type of field allows, as the errors say it.
_ALLOWED = {
    bool: "true or false",
    int: "a whole number such as 100",
    float: "a finite number such as 0.1",
    str: "text",
    tuple: "a list of strings such as \"['one', 'two']\"",
}
_TYPES = {f"config.{knob.name}": knob.kind for knob in knobs.KNOBS}


def load_config(path: str, *, changes: Mapping[str, str]) -> schema.Config:
    """The checked config of a file, with some fields changed.

        load_config("configs/sample.py", changes={"config.seed": "3"})

    Raises:
      ValueError: the file or a change is wrong; says so in one line.
    """
    values = flags.FlagValues()  # type: ignore[no-untyped-call]
    define_flags(path, values)
    words = [f"--{name}={value}" for name, value in changes.items()]
    return parse(["", *words], values)


def find(config: str) -> pathlib.Path:
    """The file of a recipe or of a path, which need not exist.

    find("imdb") -> .../configs/imdb.py, whatever the current folder
    """
    if config.isidentifier():
        return pathlib.Path(__file__).with_name(f"{config}.py")
    return pathlib.Path(config)


def read_file(path: str) -> ml_collections.ConfigDict:
    """What get_config() of a Python file returns, or what a run recorded.

    Raises:
      ValueError: there is no such file, it fails, or it holds no config.
    """
    if not pathlib.Path(path).is_file():
        others = map(str, pathlib.Path(path).parent.glob("*.py"))
        near = difflib.get_close_matches(path, others, n=1)
        raise ValueError(
            f"--config={path} is not a file; name a Python file that defines"
            f" get_config(){', such as ' if near else ''}{''.join(near)}."
        )
    config = _read_record(path) if path.endswith(".json") else _run_file(path)
    fields = _named(config)
    for name in fields:
        if name not in _TYPES:
            raise ValueError(f"--config={path}: {_unknown(name, _TYPES)}")
    for name in _TYPES:
        if name not in fields:
            raise ValueError(
                f"--config={path}: {name} is missing; let get_config() start"
                " from schema.defaults()."
            )
    _check_types(fields, f"--config={path}: ")
    return config


def define_flags(path: str, values: flags.FlagValues) -> None:
    """Adds a flag for every field; its default is the value in that file.

    Raises:
      ValueError: as `read_file`.
    """
    config_flags.DEFINE_config_dict(
        "config",
        read_file(path),
        "Python file with get_config(), or the config.json of a run",
        values,
        # config_flags defines those fields that it finds on a command line.
        sys_argv=[f"--{name}" for name in _TYPES],
    )
    values["config"].default_as_str = path
    for knob in knobs.KNOBS:
        values[f"config.{knob.name}"].help = knob.meaning


def parse(words: list[str], values: flags.FlagValues) -> schema.Config:
    """The checked config after `words`, which begin with the program's name.

    Raises:
      ValueError: a flag does not exist, or its value is not allowed.
    """
    try:
        rest = values(words)
    except flags.UnrecognizedFlagError as error:
        raise ValueError(f"--{_unknown(error.flagname, [*values])}") from error
    except flags.IllegalFlagValueError as error:
        name = str(error).removeprefix("flag --").partition("=")[0]
        allowed = f"; give {_ALLOWED[_TYPES[name]]}" if name in _TYPES else ""
        raise ValueError(f"{error}{allowed}.") from error
    if rest[1:]:
        raise ValueError(f"{rest[1]!r} is not a flag; write --name=value.")
    config = values["config"].value
    assert isinstance(config, ml_collections.ConfigDict)
    _check_types(_named(config), "")
    return schema.Config.from_config_dict(config)


def _unknown(name: str, known: Iterable[str]) -> str:
    """What to say about a name that does not exist."""
    inside = [n for n in known if n.startswith(f"{name}.")]
    if inside:
        fields = ", ".join(n.removeprefix(f"{name}.") for n in inside)
        return f"{name} is a section; its fields are {fields}."
    leaf = name.rpartition(".")[2]
    namesakes = [n for n in _TYPES if n.endswith(f".{leaf}")]
    sections = {n.rpartition(".")[0] for n in _TYPES}
    near = (
        difflib.get_close_matches(name, namesakes, n=1, cutoff=0.9)
        or namesakes
        or difflib.get_close_matches(name, [*known, *sections], n=1)
    )
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{name} does not exist; {guess}--helpfull lists all flags."


def _check_types(fields: Mapping[str, Any], place: str) -> None:
    for name, value in fields.items():
        kind = _TYPES[name]
        items = value if isinstance(value, tuple) else ()
        good = (
            isinstance(value, kind)
            # To Python, True is an int as well.
            and isinstance(value, bool) == (kind is bool)
            and (not isinstance(value, float) or math.isfinite(value))
            and all(isinstance(item, str) for item in items)
        )
        if not good:
            raise ValueError(
                f"{place}{name}={value!r} must be {_ALLOWED[kind]}."
            )


def _named(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Every value by its full name, such as "config.train.num_steps"."""
    fields = schema.flat(config.to_dict())
    return {f"config.{name}": value for name, value in fields}


def _run_file(path: str) -> ml_collections.ConfigDict:
    try:
        get_config = runpy.run_path(path).get("get_config")
        config = get_config() if callable(get_config) else None
    except Exception as error:  # A user's program may raise anything.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        line = [getattr(error, "lineno", 0), *lines][-1]
        raise ValueError(
            f"--config={path} fails at line {line}: {type(error).__name__}:"
            f" {error}"
        ) from error
    if not isinstance(config, ml_collections.ConfigDict):
        found = (
            f"get_config() returned a {type(config).__name__}"
            if callable(get_config)
            else "it lacks get_config()"
        )
        raise ValueError(
            f"--config={path}: {found}; define get_config(), and return"
            " schema.defaults() with your changes."
        )
    return ml_collections.ConfigDict(config)  # Not locked, not frozen.


def _read_record(path: str) -> ml_collections.ConfigDict:
    """The config that a run wrote to its `config.json`."""
    try:
        record = json.loads(pathlib.Path(path).read_text())
        config = schema.Config.from_dict(record["config"])
    except checks.MALFORMED as error:  # Anything may stand in the file.
        raise ValueError(
            f"--config={path} is not the config.json of a run: {error!r}; name"
            " that of a workdir, or a Python file that defines get_config()."
        ) from error
    return ml_collections.ConfigDict(dataclasses.asdict(config))
