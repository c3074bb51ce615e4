"""The image: what it is made of, checked without making it."""

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {
    pattern.removesuffix("*")
    for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
}


def test_everything_that_a_run_needs_is_copied():
    text = (ROOT / "launch" / "Dockerfile.dockerignore").read_text()
    kept = {line[1:] for line in text.splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    files = {"pyproject.toml", "requirements.txt", "requirements-gpu.txt"}
    assert kept == PACKAGES | files | {"launch"}


def test_signals_reach_the_program():
    text = (ROOT / "launch" / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["python", "-m", "trainer.main"]' in text
    assert "--require-hashes" in text
