"""What the soak tests share: where their figures go, and prepared rows."""

import json
import os
import pathlib

import pytest

from tests.input_pipeline import conftest

# Numbered rows, as the fast tests have them.
create_prepared = conftest._create_prepared


@pytest.fixture(name="record")
def _record():
    """A function that appends a figure to the file of results."""
    path = pathlib.Path(
        os.environ.get("CLOZE_SOAK_RESULTS", "runs/soak/results.jsonl")
    )

    def record(row, figure, required):
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {"row": row, "figure": figure, "required": required}
        with path.open("a") as file:
            file.write(json.dumps(result) + "\n")

    return record
