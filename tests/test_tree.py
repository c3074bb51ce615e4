"""Every script has its test file, and every test file is collected."""

import ast
import pathlib

TESTS = pathlib.Path(__file__).resolve().parent
SCRIPTS = {
    path.stem.lower()
    for path in (TESTS.parent / "launch").iterdir()
    if path.suffix not in (".md", ".dockerignore")
}
# Fixtures, and a program that tests start.
NO_TESTS = {"__init__.py", "bucket.py", "conftest.py", "sigterm.py"}


def test_every_script_has_a_test_file():
    files = {path.name for path in (TESTS / "launch").glob("test_*.py")}
    assert files == {f"test_{stem}.py" for stem in SCRIPTS}


def test_every_test_file_is_collected():
    for path in sorted(TESTS.rglob("*.py")):
        if path.name in NO_TESTS:
            continue
        assert path.name.startswith("test_"), f"{path} is not collected"
        names = [
            getattr(node, "name", "")
            for node in ast.parse(path.read_text()).body
        ]
        assert any(n.startswith(("test_", "Test")) for n in names), path
        if path.parent.name == "soak":
            assert "pytestmark = pytest.mark.soak" in path.read_text()
