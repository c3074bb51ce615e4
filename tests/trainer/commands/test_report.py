"""The page and the table of a finished pretraining, with a made evaluation."""

import json
import shutil

import pytest

from trainer.commands import evaluate, report


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished.workdir, tmp_path / "run")


def test_a_pretraining_alone(workdir, tiny):
    lines = dict(
        line.split(maxsplit=1)
        for line in report.write(tiny(), workdir=str(workdir))
        .replace("pretrain: ", "")
        .replace("real tokens seen", "tokens")
        .splitlines()
    )
    assert lines["steps"] == "33"
    assert int(lines["tokens"].replace(",", "")) > 33 * 8
    assert int(lines["parameters"].replace(",", "")) > 1_000
    assert lines["encoder"] == str(workdir / "checkpoints" / "pretrain")
    assert "classifier" not in lines
    text = (workdir / report.FILE).read_text()
    assert text.count("data:image/svg+xml") == 3
    assert "the movie was [MASK] and i [MASK] it" in text
    assert "test split" not in text


def test_with_an_evaluation(workdir, tiny):
    some = {"value": 0.9, "low": 0.8, "high": 0.95}
    names = ("accuracy", "loss", "f1", "overconfidence")
    evaluation = {
        "documents": {"evaluated": 7},
        "classifier": {"f1_of": "x", **dict.fromkeys(names, some)},
        "most_wrong": [
            {"text": "so <so>", "label": "a", "answer": "b", "probability": 1.0}
        ],
    }
    (workdir / evaluate.RESULT).write_text(json.dumps(evaluation))
    (workdir / evaluate.PICTURE).write_bytes(b"picture")
    table = report.write(tiny(), workdir=str(workdir))
    assert "0.9000 (0.8000 to 0.9500), of 7 documents" in table
    text = (workdir / report.FILE).read_text()
    assert "so &lt;so&gt;" in text
    assert "data:image/png;base64,cGljdHVyZQ==" in text
    (workdir / evaluate.PICTURE).unlink()
    assert report.write(tiny(), workdir=str(workdir)) == table
    assert "so &lt;so&gt;" in (workdir / report.FILE).read_text()


def test_a_workdir_that_holds_nothing(tmp_path, tiny):
    assert report.write(tiny(), workdir=str(tmp_path)).startswith("report")
