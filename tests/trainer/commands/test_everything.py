"""Tests of trainer/commands/everything.py: one command, every stage."""

import json
import logging
import shutil

import pytest

import storage
from tests.trainer import conftest as tiny_runs
from tests.trainer.training import conftest as processes
from trainer import trained
from trainer.commands import evaluate, everything, export, pretrain
from trainer.run import Run


@pytest.fixture
def reviews(tmp_path):
    """A file of 200 labelled documents."""
    return tiny_runs.write_reviews(tmp_path / "reviews.jsonl", seed=5)


def _config(tiny, reviews, more=()):
    return tiny(
        {
            "data.source": "jsonl",
            "data.path": str(reviews),
            "data.prepared_dir": str(reviews.parent / "prepared"),
            "train.num_steps": 15,
            "finetune.num_epochs": 1,
            "finetune.global_batch_size": 4,
            **dict(more),
        }
    )


def _content(workdir):
    return {
        str(path.relative_to(workdir)): path.read_bytes()
        for path in sorted(workdir.rglob("*"))
        if path.is_file() and "tfevents" not in path.name
    }


def test_from_text_to_a_report_and_the_second_time_nothing_is_done(
    tiny, reviews, one_device, tmp_path, capsys, monkeypatch
):
    test = tiny_runs.write_reviews(tmp_path / "test.jsonl", seed=6)
    more = {"data.test_path": str(test)}
    workdir, config = tmp_path / "run", _config(tiny, reviews, more)
    hashed, verified = [], []
    for name, calls in (("sha256_file", hashed), ("verify", verified)):
        monkeypatch.setattr(storage, name, _counted(name, calls))
    everything.run(Run(config, workdir=str(workdir), runtime=one_device))
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
    everything.run(Run(config, workdir=str(workdir), runtime=one_device))
    assert _content(workdir) == before
    # Another question to the export makes another export.
    monkeypatch.undo()
    changed = _config(tiny, reviews, {**more, "export.top_k": 3})
    asked = []
    monkeypatch.setattr(export, "run", lambda run: asked.append(run.config))
    everything.run(Run(changed, workdir=str(workdir), runtime=one_device))
    assert asked == [changed]
    # So do other test documents, and a damaged result, with an evaluation.
    monkeypatch.undo()
    monkeypatch.setattr(evaluate, "run", lambda run: asked.append("evaluated"))
    (workdir / "evaluation.png").unlink()
    everything.run(Run(config, workdir=str(workdir), runtime=one_device))
    test.write_text(test.read_text().partition("\n")[2])
    everything.run(Run(config, workdir=str(workdir), runtime=one_device))
    (workdir / "evaluation.json").write_text("{")
    everything.run(Run(config, workdir=str(workdir), runtime=one_device))
    assert asked[1:] == ["evaluated"] * 3
    # More pretraining would leave the classifier with another encoder.
    monkeypatch.setattr(pretrain, "run", None)
    longer = _config(tiny, reviews, {**more, "train.num_steps": 16})
    with pytest.raises(ValueError, match="has 15 steps and would go on to 16"):
        everything.run(Run(longer, workdir=str(workdir), runtime=one_device))


def test_ngrams_alone_need_no_training(
    tiny, reviews, one_device, tmp_path, capsys, monkeypatch
):
    config = _config(tiny, reviews, {"finetune.encoder": False})
    workdir = tmp_path / "run"
    everything.run(Run(config, workdir=str(workdir), runtime=one_device))
    assert "test accuracy" in capsys.readouterr().out
    result = evaluate.read(str(workdir))
    assert {*trained.sources(str(workdir))} == {"n-grams"}
    # A word of each review gives its label away.
    assert result["classifier"]["accuracy"]["value"] == 1
    assert not (workdir / "checkpoints").exists()
    for command in (export, evaluate):
        monkeypatch.setattr(command, "run", None)  # Would fail.
    everything.run(Run(config, workdir=str(workdir), runtime=one_device))


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
    tiny, flags, reviews, one_device, tmp_path
):
    config = _config(tiny, reviews)
    alone = tmp_path / "alone"
    everything.run(Run(config, workdir=str(alone), runtime=one_device))
    code = "import sys; from trainer import main; sys.exit(main.main())"
    running = []
    for name, layout in LAYOUTS.items():
        argv = flags(
            tmp_path / name,
            config__data__source="jsonl",
            config__data__path=reviews,
            config__data__prepared_dir=config.data.prepared_dir,
            config__train__num_steps=15,
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
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    with caplog.at_level(logging.INFO):
        everything.run(Run(tiny(), workdir=str(workdir), runtime=one_device))
    assert "no fine-tuning: data.source=text has no labels" in caplog.text
    assert not (workdir / "checkpoints" / "finetune").exists()
    out = capsys.readouterr().out
    assert "masked-LM validation perplexity" in out
    assert '"masks":' in out
    assert '"label"' not in out
    assert (workdir / "report.html").is_file()
    assert evaluate.read(str(workdir))["masked_lm"]["perplexity"] > 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "has one value"),
        ({"evaluation.control": "none"}, "evaluation.control=none holds no"),
        ({"train.global_batch_size": 7}, "train.global_batch_size=7"),
        ({"finetune.global_batch_size": 7}, "finetune.global_batch_size=7"),
    ],
)
def test_what_cannot_be_fine_tuned_is_said_before_anything_is_trained(
    tiny, reviews, devices, tmp_path, monkeypatch, more, message
):
    if not more:
        reviews.write_text(reviews.read_text().replace('"bad"}', '"good"}'))
    monkeypatch.setattr(pretrain, "run", None)  # Would fail.
    with pytest.raises(ValueError, match=message):
        everything.run(
            Run(
                _config(tiny, reviews, more),
                workdir=str(tmp_path / "run"),
                runtime=devices(2),
            )
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a film", "label": "fair"}', "the label 'fair', which the"),
        (
            '{"text": "a film"}\n{"text": ""}',
            "1 have no .*'label', 1 are empty",
        ),
        ('{"body": "a film"}', "test.jsonl, line 1: no field 'text'"),
    ],
)
def test_a_test_file_is_refused_before_anything_is_trained(
    tiny, reviews, one_device, tmp_path, monkeypatch, content, message
):
    (tmp_path / "test.jsonl").write_text(content + "\n")
    more = {"data.test_path": str(tmp_path / "test.jsonl")}
    monkeypatch.setattr(pretrain, "run", None)
    with pytest.raises(ValueError, match=message):
        everything.run(
            Run(
                _config(tiny, reviews, more),
                workdir=str(tmp_path / "run"),
                runtime=one_device,
            )
        )


def test_a_validation_file_is_refused_before_anything_is_trained(
    tiny, reviews, one_device, tmp_path, monkeypatch
):
    path = tmp_path / "validation.jsonl"
    path.write_text('{"text": "a film", "label": "fair"}\n')
    monkeypatch.setattr(pretrain, "run", None)
    with pytest.raises(ValueError, match="'fair' occurs in no .*'bad', 'good'"):
        everything.run(
            Run(
                _config(tiny, reviews, {"data.validation_path": str(path)}),
                workdir=str(tmp_path / "run"),
                runtime=one_device,
            )
        )


def test_no_encoder_is_trained_beside_a_classifier_without_it(
    tuned, tiny, one_device, monkeypatch
):
    workdir = tuned(with_pretraining=False)
    monkeypatch.setattr(pretrain, "run", None)
    with pytest.raises(ValueError, match="which is not in it"):
        everything.run(Run(tiny(), workdir=str(workdir), runtime=one_device))
