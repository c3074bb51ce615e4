"""Every source file has its test file, and every test file is collected."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
TOPS = ("configs", "input_pipeline", "proofs", "trainer")


def defines(path, start):
    """The names of the top-level functions and classes that begin so."""
    nodes = ast.parse(path.read_text()).body
    names = [node.name for node in nodes if hasattr(node, "name")]
    return [name for name in names if name.startswith(start)]


def needs_no_test(path):
    """Whether a source file is tested elsewhere."""
    return (
        path.name == "__init__.py"
        # Glue between the rooms, which the runs of the whole program test.
        or path.parent == ROOT / "trainer" / "commands"
        # A run, not code: tests/configs/test_runtime.py loads every one.
        or (path.parent == ROOT / "configs" and defines(path, "get_config"))
    )


def scripts():
    """What lies in launch/ by its own name: a script, or a folder of them."""
    for path in sorted((ROOT / "launch").iterdir()):
        if path.suffix not in (".md", ".dockerignore"):
            yield pytest.param(path, id=path.name)


def sources():
    for top in TOPS:
        for path in sorted((ROOT / top).rglob("*.py")):
            if not needs_no_test(path):
                yield pytest.param(path, id=str(path.relative_to(ROOT)))


def files_of_tests():
    for path in sorted(TESTS.rglob("*.py")):
        # sigterm.py is a program that tests start.
        if path.name not in ("__init__.py", "conftest.py", "sigterm.py"):
            yield pytest.param(path, id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("source", sources())
def test_source_has_a_test_file(source):
    place = TESTS / source.relative_to(ROOT).parent / f"test_{source.name}"
    assert place.is_file(), f"{place.relative_to(ROOT)} is missing"


@pytest.mark.parametrize("script", scripts())
def test_script_has_a_test_file(script):
    place = TESTS / "launch" / f"test_{script.stem.lower()}.py"
    assert place.is_file(), f"{place.relative_to(ROOT)} is missing"


@pytest.mark.parametrize("path", files_of_tests())
def test_test_file_is_collected(path):
    assert path.name.startswith("test_"), "pytest collects only test_*.py"
    assert defines(path, ("test_", "Test")), "it holds no test"


@pytest.mark.parametrize("path", files_of_tests())
def test_test_file_mirrors_a_source_file(path):
    inside = path.relative_to(TESTS)
    if inside.parts[0] == "soak":
        assert "pytestmark = pytest.mark.soak" in path.read_text()
    elif inside.parts[0] == "launch":
        stems = {param.values[0].stem.lower() for param in scripts()}
        assert path.stem.removeprefix("test_") in stems
    # Bad input is refused by many files; its tests are runs of the program.
    elif len(inside.parts) > 1 and path.name != "test_bad_input.py":
        source = ROOT / inside.parent / path.name.removeprefix("test_")
        assert source.is_file(), f"{source.relative_to(ROOT)} does not exist"
