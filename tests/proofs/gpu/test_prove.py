"""A part that hangs costs its own figures; losses are compared step by step."""

import json
import sys

import pytest

from proofs.gpu import parts, prove
from proofs.gpu.proof import Proof


def test_a_part_that_hangs_or_fails_is_ended_and_the_next_one_runs(
    monkeypatch, tmp_path, capsys
):
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *=feed*) exit 3;; *=steps*) sleep 60;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setitem(parts.PARTS, "steps", (1, parts.steps))
    out = tmp_path / "out"
    words = ["prove", f"--out={out}", "--parts=steps,feed,bert"]
    monkeypatch.setattr(sys, "argv", words)
    assert prove.main() == 1
    found = Proof(out, "", dry=False).found()
    assert [(row["part"], row["required"], row["good"]) for row in found] == [
        ("steps", "not done after 1 s", False),
        ("feed", "exit code 3", False),
        ("bert", "", True),
    ]
    table = (out / "results.md").read_text()
    assert capsys.readouterr().out.endswith(table)
    assert table.count("FAILED") == 2


@pytest.mark.parametrize(("other", "good"), [(1.0001, True), (1.0011, False)])
def test_runs_are_compared_where_both_have_logged(tmp_path, other, good):
    proof = Proof(tmp_path, "losses", dry=False)
    for name, last in (("gpu", 2.0), ("cpu", 2.0 * other)):
        workdir = proof.workdir(name)
        workdir.mkdir(parents=True)
        events = [
            {"step": 5, "loss": 3.0},
            {"step": 9, "validation_loss": last},
        ]
        # A step that only one of them has logged.
        events.append({"step": 10 if name == "gpu" else 11, "loss": last})
        text = "".join(
            json.dumps({"stage": "pretrain", **event}) + "\n"
            for event in events
        )
        (workdir / "metrics.jsonl").write_text(text)
    proof.compare("losses", "gpu", "cpu", 1e-3)
    [row] = proof.found()
    assert row["good"] is good


@pytest.mark.soak  # Twenty runs of the program.
def test_all_parts_run_through_without_a_gpu(monkeypatch, tmp_path):
    words = ["prove", f"--out={tmp_path}", "--dry"]
    monkeypatch.setattr(sys, "argv", words)
    assert prove.main() == 0
    found = Proof(tmp_path, "", dry=True).found()
    assert {row["part"] for row in found} == parts.PARTS.keys()
