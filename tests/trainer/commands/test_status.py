"""`--mode=status` says what is done, stale and missing, and changes nothing."""

import json
import re
import shutil

import pytest

from trainer.commands import finetune, prepare, status
from trainer.run import Run


@pytest.fixture
def shown(tiny, one_device, capsys):
    """A function: workdir, changes -> {artifact: (id, rest of its line)}."""

    def show(workdir, more=()):
        run = Run(tiny(more), workdir=str(workdir), runtime=one_device)
        status.run(run)
        _, *lines = capsys.readouterr().out.splitlines()
        return {
            name: line[len(name) :].strip()
            for line in lines
            for name in ("rows", "audit", "n-grams", "encoder")
            + ("export", "evaluation")
            if line.startswith(f"{name} ")
        }, lines[-1]

    return show


def test_an_empty_workdir_is_not_made(shown, tmp_path):
    found, last = shown(tmp_path / "none")
    assert found["encoder"] == found["export"] == "missing"
    assert "--mode=all" in last
    assert not (tmp_path / "none").exists()


def test_done_stale_and_missing(shown, finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    files = sorted(workdir.rglob("*"))
    found, _ = shown(workdir)
    assert found["rows"].endswith("done")
    assert re.search("  33 +rows ", found["encoder"])
    assert found["encoder"].endswith("done")
    assert found["export"] == "missing"
    found, _ = shown(workdir, {"train.num_steps": 40})
    assert found["encoder"].endswith("33 of 40 steps")
    found, last = shown(workdir, {"masking.select_rate": 0.3})
    assert found["encoder"].endswith(
        "stale: masking.select_rate was 0.15, now 0.3"
    )
    assert "another --workdir" in last
    found, _ = shown(workdir, {"data.sequence_length": 32})
    assert found["rows"].endswith("missing")
    assert sorted(workdir.rglob("*")) == files


@pytest.mark.parametrize(("steps", "state"), [(33, "done"), (34, "34 steps")])
def test_steps_that_minutes_decided_are_what_is_wanted(
    shown, finished, tmp_path, steps, state
):
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    recorded = json.loads((workdir / "config.json").read_text())
    recorded["resolved"]["steps"] = {"pretrain": steps}
    (workdir / "config.json").write_text(json.dumps(recorded))
    # Whatever the config alone would make of it.
    still = {"train.minutes": 1.0, "train.num_steps": 0}
    found, _ = shown(workdir, still)
    assert found["encoder"].endswith(state)


def test_an_audit_is_done_or_of_other_labels(
    shown, labelled, one_device, tmp_path
):
    found, _ = shown(tmp_path)
    assert "audit" not in found
    config = labelled({"finetune.encoder": False})
    run = Run(config, workdir=str(tmp_path), runtime=one_device)
    prepare.run(run)
    found, _ = shown(tmp_path)
    assert found["audit"].endswith("done")
    run.record(labelled="other")
    found, _ = shown(tmp_path)
    assert found["audit"].endswith("stale: made from another labelled rows")
    (tmp_path / "audit.json").unlink()
    finetune.run(Run(config, workdir=str(tmp_path), runtime=one_device))
    found, _ = shown(tmp_path)
    assert found["audit"].endswith("done")


def test_another_question_makes_an_export_stale(shown, exported):
    found, _ = shown(exported)
    assert found["export"].endswith("done")
    assert found["evaluation"] == "missing"
    found, _ = shown(exported, {"export.top_k": 3})
    assert found["export"].endswith("stale: export.top_k was 5, now 3")
