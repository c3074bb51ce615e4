"""Several seeds and students: killed, extended, and on other layouts."""

import logging
import shutil

import numpy as np
import pytest

from tests.trainer import conftest as tiny_runs
from tests.trainer.training import conftest as processes
from trainer import checkpoint, trained
from trainer.commands import finetune
from trainer.run import Run

SEEDS = ("finetune", "finetune_seed1")
AVERAGE, ROUND = "finetune_average", "finetune_round1"


def _best(workdir, stage):
    return checkpoint.of_stage(workdir, stage).best()


def _state(workdir, stage):
    return checkpoint.read_state(_best(workdir, stage))


def _assert_same_weights(workdir, other, stages):
    for mine, theirs in stages.items():
        found = tiny_runs.weights(workdir, mine)
        expected = tiny_runs.weights(other, theirs)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, atol=1e-5)


def test_every_seed_is_a_run_of_its_own(whole, create, one_device, tmp_path):
    stages = {path.name for path in (whole / "checkpoints").iterdir()}
    assert stages == {*SEEDS, AVERAGE, ROUND}
    more = {
        "finetune.seed": 1,
        "finetune.num_seeds": 1,
        "finetune.self_training_rounds": 0,
    }
    finetune.run(Run(create(more), workdir=str(tmp_path), runtime=one_device))
    _assert_same_weights(whole, tmp_path, {"finetune_seed1": "finetune"})


def test_the_average_is_the_mean_of_the_best(whole):
    average, *seeds = (
        checkpoint.weights_of(_best(whole, stage))
        for stage in (AVERAGE, *SEEDS)
    )
    for name, array in average.items():
        mean = (seeds[0][name] + seeds[1][name]) / 2
        np.testing.assert_allclose(array, mean, atol=1e-7)
    assert _state(whole, AVERAGE)["artifact"]["made_from"] == {
        stage: trained.id_of(_best(whole, stage)) for stage in SEEDS
    }
    # Whatever validates best is the classifier.
    stages = (*SEEDS, AVERAGE, ROUND)
    losses = {
        stage: _state(whole, stage)["validation_loss"] for stage in stages
    }
    chosen, _ = trained.best(str(whole))
    name = chosen.checkpoint.parent.name
    assert losses[name] == min(losses.values())
    assert chosen.stage == "finetune"


@pytest.mark.parametrize(
    ("cut", "gone"),
    [
        ("finetune_seed1", (AVERAGE, ROUND)),
        pytest.param(ROUND, (), marks=pytest.mark.soak),
        pytest.param(
            "finetune",
            ("finetune_seed1", AVERAGE, ROUND),
            marks=pytest.mark.soak,
        ),
    ],
)
def test_a_run_that_was_killed_goes_on_to_the_same(
    whole, create, one_device, tmp_path, caplog, cut, gone
):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    for stage in gone:
        shutil.rmtree(workdir / "checkpoints" / stage)
    if ROUND in gone:
        shutil.rmtree(workdir / "self_training")
    shutil.rmtree(tiny_runs.checkpoints(workdir, cut)[-1])
    with caplog.at_level(logging.INFO):
        finetune.run(Run(create(), workdir=str(workdir), runtime=one_device))
    stages = (*SEEDS, AVERAGE, ROUND)
    _assert_same_weights(workdir, whole, dict(zip(stages, stages, strict=True)))
    mine, theirs = (_state(w, ROUND)["artifact"] for w in (workdir, whole))
    assert mine == theirs
    assert "seeds:   validation accuracy " in caplog.text
    chosen, _ = trained.best(str(workdir))
    kept = chosen.checkpoint.parent.name == ROUND
    assert (
        f"by validation loss: the student of round 1 is"
        f" {'kept' if kept else 'dropped'}"
    ) in caplog.text


@pytest.mark.soak  # Another seed, and another student.
def test_more_seeds_and_rounds_extend_a_finished_run(
    whole, create, one_device, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)

    def content():
        return {
            path: path.stat().st_mtime_ns
            for path in (workdir / "checkpoints").rglob("*")
            if AVERAGE not in path.parts and path.is_file()
        }

    before = content()
    more = {"finetune.num_seeds": 3, "finetune.self_training_rounds": 2}
    finetune.run(Run(create(more), workdir=str(workdir), runtime=one_device))
    assert before.items() < content().items()
    average = _state(workdir, AVERAGE)["artifact"]
    assert {*average["made_from"]} == {*SEEDS, "finetune_seed2"}
    # The first student keeps its labels, although its teacher is another.
    first, second = (
        _state(workdir, f"finetune_round{number}")["artifact"]["made_from"]
        for number in (1, 2)
    )
    assert first == _state(whole, ROUND)["artifact"]["made_from"]
    assert first["labelled rows"] != second["labelled rows"]


@pytest.mark.soak  # Two processes, each with two seeds and a student.
def test_two_workers_do_what_one_device_does(create, one_device, tmp_path):
    more = {
        "checkpoint.best_by": "accuracy",
        "finetune.frozen_epochs": 1,
        "finetune.num_epochs": 20,
        "finetune.patience": 1,
    }
    alone, together = tmp_path / "alone", tmp_path / "together"
    finetune.run(Run(create(more), workdir=str(alone), runtime=one_device))
    code = "import sys; from trainer import main; sys.exit(main.main())"
    workers = processes.start_cluster(
        code,
        f"--config={alone / 'config.json'}",
        f"--workdir={together}",
        "--mode=finetune",
        "--strategy=multi_worker",
    )
    try:
        for process in workers:
            _, err = process.communicate(timeout=600)
            assert process.returncode == 0, err
    finally:
        for process in workers:
            process.kill()
    frozen = [f"{stage}_frozen" for stage in SEEDS]
    for stage in (*frozen, *SEEDS, AVERAGE, ROUND):
        mine, theirs = _state(together, stage), _state(alone, stage)
        for name in ("step", "best"):
            assert mine.get(name) == pytest.approx(theirs.get(name), rel=1e-4)
        newest = tiny_runs.checkpoints(alone, stage)[-1].name
        assert tiny_runs.checkpoints(together, stage)[-1].name == newest
