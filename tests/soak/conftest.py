"""What the soak tests share: figures, prepared rows, and going on.

Hours may pass: a test that passed on the same commit is not run again.
"""

import json
import os
import pathlib
import subprocess

import pytest

from tests import bucket as store
from tests.input_pipeline import conftest

# Numbered rows, as the fast tests have them.
create_prepared = conftest._create_prepared
# A model that is trained in seconds.
TINY = {
    "data.sequence_length": "64",
    "tokenizer.vocabulary_size": "2000",
    "model.num_layers": "1",
    "model.hidden_size": "32",
    "model.num_heads": "2",
    "model.intermediate_size": "64",
    "model.dropout": "0.1",
    "optimizer.warmup_steps": "0",
    "train.global_batch_size": "16",
}
# An object store.
bucket = store._bucket

_RESULTS = pathlib.Path(
    os.environ.get("CLOZE_SOAK_RESULTS", "runs/soak/results.jsonl")
)


@pytest.fixture(name="record")
def _record():
    """A function that appends a figure to the file of results."""

    def record(row, figure, required):
        _append({"row": row, "figure": figure, "required": required})

    return record


def pytest_collection_modifyitems(items):
    """Skips what has passed on this commit, if nothing was edited since."""
    commit = _commit()
    passed = {
        line["passed"]
        for line in _lines()
        if line.get("passed") and line["commit"] == commit
    }
    for item in items:
        if item.nodeid in passed:
            reason = f"passed on {commit[:9]}; remove {_RESULTS} to repeat it"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_logreport(report):
    """Notes a test that passed."""
    in_soak = report.nodeid.startswith("tests/soak/")
    if report.when == "call" and report.passed and in_soak and _commit():
        _append({"passed": report.nodeid, "commit": _commit()})


def _commit():
    """The commit of a clean tree, else ""."""
    if _git("status", "--porcelain"):
        return ""
    return _git("rev-parse", "HEAD")


def _git(*words):
    result = subprocess.run(["git", *words], capture_output=True, text=True)
    return result.stdout.strip()


def _lines():
    if not _RESULTS.exists():
        return []
    return [json.loads(line) for line in _RESULTS.read_text().splitlines()]


def _append(line):
    _RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with _RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
