"""The image: what it is made of, checked without making it."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = (ROOT / "launch" / "Dockerfile").read_text()
IGNORED = (ROOT / "launch" / "Dockerfile.dockerignore").read_text()


def test_everything_that_a_run_needs_is_copied():
    lines = IGNORED.splitlines()
    assert "*" in lines
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    assert {"configs", "input_pipeline", "launch", "trainer"} <= kept


def test_every_environment_has_its_lock_file():
    assert "requirements${EXTRA:+-$EXTRA}.txt" in TEXT
    assert "--require-hashes" in TEXT
    kept = re.findall(r"^!(requirements\S*)$", IGNORED, re.MULTILINE)
    assert kept == ["requirements.txt", "requirements-gpu.txt"]


def test_signals_reach_the_program():
    assert 'ENTRYPOINT ["python", "-m", "trainer.main"]' in TEXT
    assert "\nUSER 1000\n" in TEXT
