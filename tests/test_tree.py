"""Every script has its test file, and every test file is collected."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
# Fixtures, and a program that tests start.
NO_TESTS = {"__init__.py", "bucket.py", "conftest.py", "sigterm.py"}


def defines(path, start):
    """The names of the top-level functions and classes that begin so."""
    nodes = ast.parse(path.read_text()).body
    names = [node.name for node in nodes if hasattr(node, "name")]
    return [name for name in names if name.startswith(start)]


def scripts():
    """What lies in launch/ by its own name: a script, or a folder of them."""
    for path in sorted((ROOT / "launch").iterdir()):
        if path.suffix not in (".md", ".dockerignore"):
            yield pytest.param(path, id=path.name)


def files_of_tests():
    for path in sorted(TESTS.rglob("*.py")):
        # sigterm.py is a program that tests start.
        if path.name not in (
            "__init__.py",
            "bucket.py",
            "conftest.py",
            "sigterm.py",
        ):
            yield pytest.param(path, id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("script", scripts())
def test_script_has_a_test_file(script):
    place = TESTS / "launch" / f"test_{script.stem.lower()}.py"
    assert place.is_file(), f"{place.relative_to(ROOT)} is missing"


@pytest.mark.parametrize("path", files_of_tests())
def test_test_file_is_collected(path):
    assert path.name.startswith("test_"), "pytest collects only test_*.py"
    assert defines(path, ("test_", "Test")), "it holds no test"


@pytest.mark.parametrize("path", files_of_tests())
def test_test_file_is_in_its_place(path):
    inside = path.relative_to(TESTS)
    if inside.parts[0] == "soak":
        assert "pytestmark = pytest.mark.soak" in path.read_text()
    elif inside.parts[0] == "launch":
        stems = {param.values[0].stem.lower() for param in scripts()}
        assert path.stem.removeprefix("test_") in stems
