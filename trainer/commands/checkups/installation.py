"""Python and packages against what is declared and locked; no TensorFlow."""

import pathlib
import platform
import tomllib
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from packaging import requirements, specifiers

from trainer.commands.checkups.check import Case, Imperfect

ROOT = pathlib.Path(__file__).resolve().parents[3]
_LOCK, _GPU_LOCK = "requirements.txt", "requirements-gpu.txt"
_TPU_LOCK = "launch/tpu_vm/requirements.txt"
_REMEDY = (
    "make the environment anew: `make clean`, then `make run` (EXTRA=gpu for"
    " CUDA); on a TPU VM launch/tpu_vm/setup.sh."
)


def python(case: Case) -> str:
    """Whether pyproject.toml allows this version."""
    found = platform.python_version()
    allowed = specifiers.SpecifierSet(_project().get("requires-python", ""))
    if not allowed.contains(found, prereleases=True):
        raise ValueError(
            f"Python {found}, but Cloze needs {allowed}; name another, such as"
            " `make run PYTHON=python3.12`."
        )
    return f"{found}; {allowed or 'no pyproject.toml says what'} is allowed"


def packages(case: Case) -> str:
    """Whether packages are there, in the range declared, and as locked."""
    name = _lock()
    wrong = [*_undeclared()]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}; {_REMEDY}")
    lock = ROOT / name
    if not lock.exists():
        raise Imperfect(f"{lock} is not there: no versions to compare with.")
    same, other = 0, []
    for locked in map(requirements.Requirement, _lines(lock)):
        found = _installed(locked.name)
        if found and (not locked.marker or locked.marker.evaluate()):
            same += locked.specifier.contains(found)
            if not locked.specifier.contains(found):
                other.append(
                    f"{locked.name} is {found}, not {locked.specifier}"
                )
    if other:
        shown = ", ".join(other[:5]) + (", ..." if other[5:] else "")
        raise Imperfect(
            f"{len(other)} package(s) differ from {name}, which is tested:"
            f" {shown}; {_REMEDY}"
        )
    return f"{same} packages, all as in {name}"


def _lock() -> str:
    """The lock file of this environment."""
    if _installed("tensorflow-tpu"):
        return _TPU_LOCK
    return _GPU_LOCK if _installed("nvidia-cudnn-cu12") else _LOCK


def _undeclared() -> Iterator[str]:
    """What is missing or has a version that pyproject.toml does not allow."""
    for text in _project().get("dependencies", ()):
        declared = requirements.Requirement(text)
        found = _installed(declared.name)
        if declared.name == "tensorflow":
            found = found or _installed("tensorflow-tpu")
        if not found:
            yield f"{declared.name} is missing"
        elif not declared.specifier.contains(found, prereleases=True):
            yield f"{declared.name} is {found}, not {declared.specifier}"


def _project() -> dict[str, Any]:
    """The section `project` of pyproject.toml; {} in an image without it."""
    path = ROOT / "pyproject.toml"
    if not path.exists():
        return {}
    section: dict[str, Any] = tomllib.loads(path.read_text())["project"]
    return section


def _lines(lock: pathlib.Path) -> Iterator[str]:
    """The requirements of a lock, without hashes and comments."""
    for line in lock.read_text().splitlines():
        if line and line[0] not in " #":
            yield line.removesuffix("\\")


def _installed(name: str) -> str:
    """The version of a package, or ""."""
    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return ""


CHECKS = (python, packages)
