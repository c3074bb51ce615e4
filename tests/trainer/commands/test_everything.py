"""Tests of trainer/commands/everything.py: one command, every stage."""

import json
import logging
import shutil

import pytest

import storage
from tests.trainer import conftest as tiny_runs
from tests.trainer.training import conftest as processes
from trainer import trained
from trainer.commands import (
    evaluate,
    everything,
    export,
    predict,
    pretrain,
    status,
)
from trainer.run import Run


@pytest.fixture
def reviews(tmp_path):
    """A file of 200 labelled documents."""
    return tiny_runs.write_reviews(tmp_path / "reviews.jsonl", seed=5)


@pytest.fixture
def create(tiny, reviews, one_device, tmp_path):
    """A function: changes, layout, workdir -> a run on these reviews."""
    changes = {
        "data.source": "jsonl",
        "data.path": str(reviews),
        "data.prepared_dir": str(tmp_path / "prepared"),
        "train.num_steps": 15,
        "finetune.frozen_epochs": 0,
        "finetune.num_epochs": 1,
        "finetune.global_batch_size": 4,
    }
    return lambda more=(), layout=one_device, workdir=tmp_path / "run": Run(
        tiny({**changes, **dict(more)}), workdir=str(workdir), runtime=layout
    )


def _content(workdir):
    return {
        str(path.relative_to(workdir)): path.read_bytes()
        for path in sorted(workdir.rglob("*"))
        if path.is_file() and "tfevents" not in path.name
    }


def test_from_text_to_a_report_and_the_second_time_nothing_is_done(
    create, reviews, tmp_path, capsys, monkeypatch
):
    test = tiny_runs.write_reviews(tmp_path / "test.jsonl", seed=6)
    more = {"data.test_path": str(test)}
    workdir = tmp_path / "run"
    hashed, verified = [], []
    for name, calls in (("sha256_file", hashed), ("verify", verified)):
        monkeypatch.setattr(storage, name, _counted(name, calls))
    everything.run(create(more))
    monkeypatch.undo()
    assert sorted(p for p in hashed if p.endswith(".jsonl")) == [
        str(reviews),
        str(test),
    ]
    rows_and_export = [
        p for p in verified if "/prepared/" in p or p.endswith("/export")
    ]
    assert len(rows_and_export) == 3
    assert [p for p in verified if "/checkpoints/" in p]
    assert len(verified) == len({*verified})
    out = capsys.readouterr().out
    assert "test accuracy" in out
    assert '"masks": [[{"token":' in out
    # The completed sentence has a class.
    assert '"label": "' in out
    assert "report.html" in out
    card = (workdir / "export" / "README.md").read_text()
    assert "test accuracy" in card.partition("evaluate: begin")[2]
    result = evaluate.read(str(workdir))
    assert {*result["checkpoints"]} == {"pretrain", "finetune"}
    facts = storage.read_manifest(workdir / "export")
    assert facts["artifact"]["made_from"] == trained.sources(str(workdir))
    assert {*trained.sources(str(workdir))} == {
        "encoder",
        "classifier",
        "n-grams",
    }
    assert result["artifact"]["made_from"]["export"] == facts["artifact"]["id"]
    before = _content(workdir)
    for command in (export, evaluate):
        monkeypatch.setattr(command, "run", None)  # Would fail.
    everything.run(create(more))
    assert _content(workdir) == before
    # Another question to the export makes another export; a lost picture,
    # other test documents and a damaged result make another evaluation.
    assert not export.is_done(create({**more, "export.top_k": 3}))
    assert evaluate.is_done(create(more))
    picture = (workdir / "evaluation.png").read_bytes()
    (workdir / "evaluation.png").unlink()
    assert not evaluate.is_done(create(more))
    (workdir / "evaluation.png").write_bytes(picture)
    text = test.read_text()
    test.write_text(text.partition("\n")[2])
    assert not evaluate.is_done(create(more))
    test.write_text(text)
    assert evaluate.is_done(create(more))
    (workdir / "evaluation.json").write_text("{")
    assert not evaluate.is_done(create(more))
    # More pretraining would leave the classifier with another encoder.
    monkeypatch.setattr(pretrain, "run", None)
    with pytest.raises(ValueError, match="has 15 steps and would go on to 16"):
        everything.run(create({**more, "train.num_steps": 16}))


def test_ngrams_alone_need_no_training(create, tmp_path, capsys, monkeypatch):
    alone, workdir = {"finetune.encoder": False}, tmp_path / "run"
    alone["finetune.min_precision"] = 0.5  # Five right ones are enough.
    everything.run(create(alone))
    assert "test accuracy" in capsys.readouterr().out
    result = evaluate.read(str(workdir))
    assert {*trained.sources(str(workdir))} == {"n-grams"}
    # A word of each review gives its label away.
    assert result["classifier"]["accuracy"]["value"] == 1
    decided = result["decisions"]
    for found in (decided, decided["on_validation"]):
        assert found["precision"]["value"] == 1
        assert found["coverage"]["value"] > 0.5
    for word in ("good", "bad"):
        assert word in result["strongest_ngrams"][word]
    report = (workdir / "report.html").read_text()
    assert "n-grams that speak most for a class" in report
    lines = [b"the movie was good, and she", b"a bad and long film"]
    answers = predict.answers(create(alone).open_export(), lines, explain=True)
    for word, answer in zip(("good", "bad"), answers, strict=True):
        found = answer["explanation"]
        values = found["contributions"]["n-grams"]
        first = found["words"][values.index(max(values))]
        assert answer["label"] == found["label"] == word
        assert first.strip(" ,") == word
    status.run(create(alone))
    assert "missing" not in capsys.readouterr().out
    # Another precision makes another export of the same n-grams.
    more = {**alone, "finetune.min_precision": 0.75}
    assert not export.is_done(create(more))
    assert not (workdir / "checkpoints").exists()
    for command in (export, evaluate):
        monkeypatch.setattr(command, "run", None)  # Would fail.
    everything.run(create(alone))


def _counted(name, calls):
    """The function of `storage` of that name, which notes its first argument.

    Not of files in a directory that has a manifest: these are verified.
    """
    original = getattr(storage, name)

    def call(path, **options):
        calls.append(str(path))
        return original(path, **options)

    return call


LAYOUTS = {
    "two workers": ("--strategy=multi_worker",),
    "two devices": ("--strategy=mirrored", "--num_virtual_devices=2"),
}


@pytest.mark.soak  # Four processes, each with all stages.
def test_other_layouts_do_what_one_device_does(
    create, flags, reviews, tmp_path
):
    alone = tmp_path / "alone"
    everything.run(create(workdir=alone))
    code = "import sys; from trainer import main; sys.exit(main.main())"
    running = []
    for name, layout in LAYOUTS.items():
        argv = flags(
            tmp_path / name,
            config__data__source="jsonl",
            config__data__path=reviews,
            config__data__prepared_dir=tmp_path / "prepared",
            config__train__num_steps=15,
            config__finetune__frozen_epochs=0,
            config__finetune__num_epochs=1,
            config__finetune__global_batch_size=4,
        )
        argv += ["--mode=all", *layout]
        if name == "two workers":
            running += processes.start_cluster(code, *argv)
        else:
            running.append(processes.start(code, *argv))
    try:
        for process in running:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
    finally:
        for process in running:
            process.kill()
    expected = _figures(alone)
    for name in LAYOUTS:
        assert _figures(tmp_path / name) == pytest.approx(expected, rel=1e-5)
        assert (tmp_path / name / "report.html").exists()


def _figures(workdir):
    """Every loss of a run, and the accuracy in the end."""
    result = json.loads((workdir / "evaluation.json").read_text())
    return {"accuracy": result["classifier"]["accuracy"]["value"]} | {
        (event["stage"], event["step"], name): event[name]
        for event in tiny_runs.events(workdir)
        for name in ("loss", "validation_loss")
        if name in event
    }


def test_text_without_labels_keeps_the_pretraining_half(
    tiny, finished, one_device, tmp_path, capsys, caplog
):
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    config = tiny({"export.max_masks": 2, "export.top_k": 3})
    with caplog.at_level(logging.INFO):
        everything.run(Run(config, workdir=str(workdir), runtime=one_device))
    assert "no fine-tuning: data.source=text has no labels" in caplog.text
    assert "without classify: no --mode=finetune here" in caplog.text
    assert "without huggingface/ and keras_hub/: this is no" in caplog.text
    facts = storage.verify(workdir / "export")
    assert facts["signatures"] == ["embed", "fill_mask"]
    assert (facts["max_masks"], facts["top_k"]) == (2, 3)
    assert not (workdir / "export" / "model.keras").exists()
    assert not (workdir / "checkpoints" / "finetune").exists()
    out = capsys.readouterr().out
    assert "masked-LM validation perplexity" in out
    assert '"masks":' in out
    assert '"label"' not in out
    assert (workdir / "report.html").is_file()
    assert evaluate.read(str(workdir))["masked_lm"]["perplexity"] > 1


@pytest.mark.parametrize(
    ("more", "content", "message"),
    [
        ({}, "", "has one value"),
        (
            {"evaluation.control": "none"},
            "",
            "evaluation.control=none holds no",
        ),
        ({"train.global_batch_size": 7}, "", "train.global_batch_size=7"),
        ({"finetune.global_batch_size": 7}, "", "finetune.global_batch_size=7"),
        (
            {"data.test_path": "{path}"},
            '{"text": "a film", "label": "fair"}',
            "the label 'fair', which the",
        ),
        (
            {"data.test_path": "{path}"},
            '{"text": "a film"}\n{"text": ""}',
            "1 have no .*'label', 1 are empty",
        ),
        (
            {"data.test_path": "{path}"},
            '{"body": "a film"}',
            "other.jsonl, line 1: no field 'text'",
        ),
        (
            {"data.validation_path": "{path}"},
            '{"text": "a film", "label": "fair"}',
            "'fair' occurs in no .*'bad', 'good'",
        ),
    ],
)
def test_what_cannot_be_fine_tuned_is_said_before_anything_is_trained(
    create, reviews, devices, tmp_path, monkeypatch, more, content, message
):
    if not more:
        reviews.write_text(reviews.read_text().replace('"bad"}', '"good"}'))
    path = tmp_path / "other.jsonl"
    path.write_text(content + "\n")
    more = {k: str(path) if v == "{path}" else v for k, v in more.items()}
    monkeypatch.setattr(pretrain, "run", None)  # Would fail.
    with pytest.raises(ValueError, match=message):
        everything.run(create(more, devices(2)))


def test_no_encoder_is_trained_beside_a_classifier_without_it(
    tuned, tiny, one_device, monkeypatch
):
    workdir = tuned(with_pretraining=False)
    monkeypatch.setattr(pretrain, "run", None)
    with pytest.raises(ValueError, match="which is not in it"):
        everything.run(Run(tiny(), workdir=str(workdir), runtime=one_device))
