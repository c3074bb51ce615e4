"""The page and the table of a finished pretraining, with a made evaluation."""

import json
import re
import shutil

import pytest

from trainer.commands import evaluate, report
from trainer.run import Run


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished.workdir, tmp_path / "run")


@pytest.fixture
def table(tiny, one_device, capsys):
    """A function: workdir -> what is printed."""

    def run(workdir):
        report.run(Run(tiny(), workdir=str(workdir), runtime=one_device))
        return capsys.readouterr().out

    return run


def test_a_pretraining_alone(workdir, table):
    shown = table(workdir)
    assert re.search(r"pretrain: steps +33\n", shown)
    assert re.search(r"pretrain: parameters +\d,\d+\n", shown)
    assert f"{workdir}/checkpoints/pretrain\n" in shown
    assert "classifier" not in shown
    text = (workdir / report.FILE).read_text()
    assert text.count("data:image/svg+xml") == 3
    assert "the movie was [MASK] and i [MASK] it" in text
    assert "test split" not in text


def test_with_an_evaluation(workdir, table):
    some = {"value": 0.9, "low": 0.8, "high": 0.95}
    names = ("accuracy", "loss", "overconfidence")
    evaluation = {
        "documents": {"evaluated": 7},
        "labels": ["a", "b"],
        "classifier": dict.fromkeys(names, some),
        "most_wrong": [
            {"text": "so <so>", "label": "a", "answer": "b", "probability": 1.0}
        ],
    }
    (workdir / evaluate.RESULT).write_text(json.dumps(evaluation))
    (workdir / evaluate.PICTURE).write_bytes(b"picture")
    shown = table(workdir)
    assert "0.9000 (0.8000 to 0.9500), of 7 documents" in shown
    text = (workdir / report.FILE).read_text()
    assert "so &lt;so&gt;" in text
    assert "data:image/png;base64,cGljdHVyZQ==" in text
    (workdir / evaluate.PICTURE).unlink()
    assert table(workdir) == shown
    assert "so &lt;so&gt;" in (workdir / report.FILE).read_text()


def test_a_workdir_that_holds_nothing(tmp_path, table):
    assert table(tmp_path).startswith("report")
