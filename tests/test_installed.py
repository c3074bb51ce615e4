"""The wheel: the program starts in any folder and has all that it reads."""

import os
import pathlib
import shutil
import subprocess
import sys

PACKAGES = ("configs", "input_pipeline", "storage", "trainer")
ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_installed_program_is_whole_and_starts_anywhere(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    for name in PACKAGES:
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        + ["--no-build-isolation", f"--target={site}", source],
        check=True,
    )
    for name in PACKAGES:
        for path in (ROOT / name).rglob("*.*"):
            if "__pycache__" not in path.parts:
                assert (site / path.relative_to(ROOT)).exists()
    program = subprocess.run(
        [site / "bin" / "cloze", "--config=sample", "--mode=status"],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert program.returncode == 0, program.stderr
    assert "rows" in program.stdout
