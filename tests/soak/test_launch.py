"""The launchers, with the trainer itself on the sample corpus."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.soak import conftest

pytestmark = pytest.mark.soak
ROOT = pathlib.Path(__file__).resolve().parents[2]
CHANGES = {
    **conftest.TINY,
    "train.num_steps": "40",
    "train.log_every": "5",
    "inspect.num_steps": "40",
    "inspect.num_rows": "0",
}
SCRIPTS = {
    "local.sh": ("--strategy=one_device",),
    "multi_worker.sh": ("--local=2",),
}


@pytest.fixture(name="outputs", scope="module")
def _outputs(tmp_path_factory):
    """Script -> (losses by step, digests by step)."""
    folder = tmp_path_factory.mktemp("launch")
    changes = {**CHANGES, "data.prepared_dir": str(folder / "prepared")}
    flags = [f"--config.{name}={value}" for name, value in changes.items()]

    def run(script, mode):
        result = subprocess.run(
            [
                ROOT / "launch" / script,
                *SCRIPTS[script],
                "--",
                *flags,
                f"--workdir={folder / script}",
                f"--mode={mode}",
            ],
            capture_output=True,
            text=True,
            timeout=1_800,
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "CLOZE_PYTHON": sys.executable,
            },
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def losses(script):
        run(script, "pretrain")
        text = (folder / script / "metrics.jsonl").read_text()
        events = [json.loads(line) for line in text.splitlines()]
        return {e["step"]: e["loss"] for e in events if "loss" in e}

    def digests(script):
        lines = run(script, "inspect").splitlines()
        shown = [
            json.loads(line[line.index("{") :])
            for line in lines
            if '"digest"' in line
        ]
        return {line["step"]: line["digest"] for line in shown}

    return {name: (losses(name), digests(name)) for name in SCRIPTS}


def test_two_local_workers_see_the_same_batches(outputs, record):
    one, two = (digests for _, digests in outputs.values())
    assert len(one) == 40
    differing = sum(one[step] != two.get(step) for step in one)
    record("multi_worker.sh --local=2: digests that differ", differing, 0)
    assert one == two


def test_two_local_workers_have_the_same_losses(outputs, record):
    one, two = (losses for losses, _ in outputs.values())
    assert one.keys() == two.keys()
    assert len(one) == 8
    worst = max(abs(two[step] / one[step] - 1) for step in one)
    record("multi_worker.sh --local=2: losses, relative", worst, 1e-5)
    assert worst <= 1e-5
