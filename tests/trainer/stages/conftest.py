"""One fine-tuning run for all: two seeds, their average and a student."""

import json

import pytest

from tests.trainer import conftest as tiny_runs
from trainer.commands import finetune
from trainer.run import Run


@pytest.fixture(scope="session")
def create(labelled, tmp_path_factory):
    """A function: more changes -> a config with text that has no labels.

    40 documents have a label, 160 have none.
    """
    path = tiny_runs.write_reviews(
        tmp_path_factory.mktemp("students") / "reviews.jsonl", seed=5
    )
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records[40:]:
        del record["label"]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    changes = {
        "data.path": str(path),
        "data.prepared_dir": str(path.parent / "prepared"),
        "data.validation_rate": 0.3,
        "finetune.from_scratch": True,
        "finetune.frozen_epochs": 0,
        "finetune.num_seeds": 2,
        "finetune.self_training_rounds": 1,
    }
    return lambda more=(): labelled({**changes, **dict(more)})


@pytest.fixture(scope="session")
def whole(create, one_device, tmp_path_factory):
    """A workdir with two seeds, their average and a student.

    Nobody changes it.
    """
    workdir = tmp_path_factory.mktemp("whole") / "run"
    finetune.run(Run(create(), workdir=str(workdir), runtime=one_device))
    return workdir
