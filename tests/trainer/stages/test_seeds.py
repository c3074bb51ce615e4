"""Several seeds: each a run of its own, and the average of them all."""

import json
import logging
import shutil

import numpy as np
import pytest

from tests.trainer import conftest as tiny_runs
from tests.trainer.training import conftest as processes
from trainer import checkpoint, trained
from trainer.commands import export, finetune
from trainer.run import Run


@pytest.fixture(scope="module")
def create(tiny, tmp_path_factory):
    """A function: more changes -> a config on 200 labelled documents."""
    path = tiny_runs.write_reviews(
        tmp_path_factory.mktemp("seeds") / "reviews.jsonl", seed=3
    )
    changes = {
        "data.source": "jsonl",
        "data.path": str(path),
        "data.prepared_dir": str(path.parent / "prepared"),
        "model.dropout": 0.1,
        "finetune.from_scratch": True,
        "finetune.frozen_epochs": 1,
        "finetune.num_epochs": 1,
        "finetune.global_batch_size": 4,
        "finetune.learning_rate": 0.01,
        "finetune.num_seeds": 2,
        "checkpoint.every_steps": 5,
    }
    return lambda more=(): tiny({**changes, **dict(more)})


@pytest.fixture(scope="module")
def whole(create, one_device, tmp_path_factory):
    """A workdir with two seeds and their average; nobody changes it."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    finetune.run(Run(create(), workdir=str(workdir), runtime=one_device))
    return workdir


def _state(workdir, stage):
    path = checkpoint.of_stage(workdir, stage).best()
    return json.loads((path / "state.json").read_text())


def test_every_seed_is_a_run_of_its_own(whole, create, one_device, tmp_path):
    stages = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert stages == [
        "finetune",
        "finetune_average",
        "finetune_frozen",
        "finetune_seed1",
        "finetune_seed1_frozen",
    ]
    alone = tmp_path / "alone"
    config = create({"finetune.seed": 1, "finetune.num_seeds": 1})
    finetune.run(Run(config, workdir=str(alone), runtime=one_device))
    mine = tiny_runs.weights(whole, "finetune_seed1")
    theirs = tiny_runs.weights(alone, "finetune")
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-6)


def test_the_average_is_the_mean_of_the_best(whole):
    average, *seeds = (
        checkpoint.weights_of(checkpoint.of_stage(whole, stage).best())
        for stage in ("finetune_average", "finetune", "finetune_seed1")
    )
    for name, array in average.items():
        mean = (seeds[0][name] + seeds[1][name]) / 2
        np.testing.assert_allclose(array, mean, atol=1e-7)
    state = _state(whole, "finetune_average")
    assert state["artifact"]["made_from"] == {
        stage: trained.id_of(checkpoint.of_stage(whole, stage).best())
        for stage in ("finetune", "finetune_seed1")
    }


def test_validation_chooses_what_is_exported(
    whole, create, one_device, tmp_path
):
    stages = ("finetune", "finetune_average", "finetune_seed1")
    states = {stage: _state(whole, stage) for stage in stages}
    wanted = min(stages, key=lambda stage: states[stage]["validation_loss"])
    chosen, _ = trained.best(str(whole))
    assert chosen.checkpoint.parent.name == wanted
    assert chosen.stage == "finetune"
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    export.run(Run(create(), workdir=str(workdir), runtime=one_device))
    manifest = json.loads((workdir / "export" / "manifest.json").read_text())
    assert (
        manifest["checkpoints"]["finetune"]["validation_loss"]
        == states[wanted]["validation_loss"]
    )


@pytest.mark.parametrize("left", ["finetune", "finetune_seed1"])
def test_a_run_that_was_killed_goes_on_to_the_same(
    whole, create, devices, tmp_path, caplog, left
):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / "finetune_average")
    if left == "finetune":
        for name in ("finetune_seed1", "finetune_seed1_frozen"):
            shutil.rmtree(workdir / "checkpoints" / name)
    path = tiny_runs.checkpoints(workdir, left)[-1]
    shutil.rmtree(path)
    with caplog.at_level(logging.INFO):
        finetune.run(Run(create(), workdir=str(workdir), runtime=devices(2)))
    for stage in ("finetune", "finetune_seed1", "finetune_average"):
        mine = tiny_runs.weights(workdir, stage)
        theirs = tiny_runs.weights(whole, stage)
        for name in theirs:
            np.testing.assert_allclose(mine[name], theirs[name], atol=1e-5)
    assert "seeds:   validation accuracy " in caplog.text
    assert "best:    checkpoints/finetune" in caplog.text


def test_a_finished_run_is_left_alone_and_more_seeds_extend_it(
    whole, create, one_device, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)

    def content():
        return {
            path: path.stat().st_mtime_ns
            for path in sorted((workdir / "checkpoints").rglob("*"))
        }

    before = content()
    finetune.run(Run(create(), workdir=str(workdir), runtime=one_device))
    assert content() == before
    config = create({"finetune.num_seeds": 3})
    finetune.run(Run(config, workdir=str(workdir), runtime=one_device))
    average = _state(workdir, "finetune_average")
    assert len(average["artifact"]["made_from"]) == 3
    after = content()
    for path, written in before.items():
        if "finetune_average" not in str(path):
            assert after[path] == written


@pytest.mark.soak  # Two processes, each with two seeds.
def test_two_workers_do_what_one_device_does(
    create, flags, one_device, tmp_path
):
    more = {
        "checkpoint.best_by": "accuracy",
        "finetune.frozen_epochs": 0,
        "finetune.num_epochs": 20,
        "finetune.patience": 1,
    }
    config = create(more)
    alone, together = tmp_path / "alone", tmp_path / "together"
    finetune.run(Run(config, workdir=str(alone), runtime=one_device))
    values = {
        "data.source": "jsonl",
        "data.path": config.data.path,
        "data.prepared_dir": config.data.prepared_dir,
        "finetune.from_scratch": True,
        "model.dropout": 0.1,
        "finetune.global_batch_size": 4,
        "finetune.learning_rate": 0.01,
        "finetune.num_seeds": 2,
        "checkpoint.every_steps": 5,
        **more,
    }
    argv = flags(together)
    argv += [f"--config.{name}={value}" for name, value in values.items()]
    argv += ["--mode=finetune", "--strategy=multi_worker"]
    code = "import sys; from trainer import main; sys.exit(main.main())"
    workers = processes.start_cluster(code, *argv)
    try:
        for process in workers:
            _, err = process.communicate(timeout=400)
            assert process.returncode == 0, err
    finally:
        for process in workers:
            process.kill()
    for stage in ("finetune", "finetune_seed1", "finetune_average"):
        mine, theirs = _state(together, stage), _state(alone, stage)
        assert mine["artifact"]["id"] == theirs["artifact"]["id"]
        for name in ("step", "best"):
            assert mine.get(name) == pytest.approx(theirs.get(name), rel=1e-5)
        newest = tiny_runs.checkpoints(alone, stage)[-1].name
        assert tiny_runs.checkpoints(together, stage)[-1].name == newest
