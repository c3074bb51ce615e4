"""The image: what it is made of, checked without making it."""

import tomllib

from tests.launch import conftest

PROJECT = tomllib.loads((conftest.ROOT / "pyproject.toml").read_text())
PACKAGES = {
    pattern.removesuffix("*")
    for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
}


def test_the_image_has_everything_that_a_run_needs():
    folder = conftest.ROOT / "launch"
    ignore = (folder / "Dockerfile.dockerignore").read_text()
    kept = {line[1:] for line in ignore.splitlines() if line.startswith("!")}
    files = {"pyproject.toml", "requirements.txt", "requirements-gpu.txt"}
    assert kept == PACKAGES | files | {"launch"}
    text = (folder / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["python", "-m", "trainer.main"]' in text  # For signals.
    assert "--require-hashes" in text
