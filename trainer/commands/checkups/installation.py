"""Python and packages against what is declared and locked; no TensorFlow."""

import pathlib
import platform
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging import requirements, specifiers

from trainer.commands.doctor import Case, CheckWarning

ROOT = pathlib.Path(__file__).resolve().parents[3]
_REMEDY = (
    "make the environment anew: `make clean`, then `make run` (EXTRA=gpu for"
    " CUDA); on a TPU VM launch/tpu_vm/setup.sh."
)


def python(case: Case) -> str:
    """Whether pyproject.toml allows this version."""
    found = platform.python_version()
    project = tomllib.loads(_read("pyproject.toml"))["project"]
    allowed = project["requires-python"]
    if not specifiers.SpecifierSet(allowed).contains(found, prereleases=True):
        raise ValueError(
            f"Python {found}, but Cloze needs {allowed}; name another, such as"
            " `make run PYTHON=python3.12`."
        )
    return f"{found}; {allowed} is allowed"


def packages(case: Case) -> str:
    """Whether all packages are there, in the declared range, and as locked."""
    project = tomllib.loads(_read("pyproject.toml"))["project"]
    if wrong := [*_differences(project["dependencies"])]:
        raise ValueError(f"{', '.join(wrong)}; {_REMEDY}")
    lock = "requirements.txt"
    if _installed("tensorflow-tpu"):
        lock = "launch/tpu_vm/requirements.txt"
    elif _installed("nvidia-cudnn-cu12"):
        lock = "requirements-gpu.txt"
    # The other lines are hashes and comments.
    lines = [x for x in _read(lock).splitlines() if x and x[0] not in " #"]
    locked = [line.removesuffix("\\") for line in lines]
    # What a lock has for other machines, such as CUDA, is not missed.
    differing = [x for x in _differences(locked) if not x.endswith("missing")]
    if differing:
        raise CheckWarning(
            f"{len(differing)} package(s) differ from {lock}, which is tested:"
            f" {', '.join(differing)}; {_REMEDY}"
        )
    return f"all are as in {lock}"


def _read(name: str) -> str:
    path = ROOT / name
    if not path.exists():  # An image may do without it.
        raise CheckWarning(f"{path}, to compare with, is not there.")
    return path.read_text()


def _differences(wanted: Iterable[str]) -> Iterator[str]:
    """What is to be said of each package that is missing or does not fit."""
    for one in map(requirements.Requirement, wanted):
        found = _installed(one.name)
        if one.name == "tensorflow":
            found = found or _installed("tensorflow-tpu")
        if one.marker and not one.marker.evaluate():
            continue
        if not found:
            yield f"{one.name} is missing"
        elif not one.specifier.contains(found, prereleases=True):
            yield f"{one.name} is {found}, not {one.specifier}"


def _installed(name: str) -> str:
    """The version of a package, or ""."""
    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return ""
