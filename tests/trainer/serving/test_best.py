"""Tests of trainer/serving/best.py."""

import keras
import pytest

from configs import schema
from trainer import checkpoint, workdir
from trainer.serving import best


@pytest.fixture
def save(tmp_path):
    """A function: run, stage, losses by step -> its workdir, as a string."""

    def write(run, stage, losses, **config):
        path = tmp_path / run
        path.mkdir(exist_ok=True)
        workdir.record(str(path), schema.Config(**config), {"from": run})
        for step, loss in losses.items():
            checkpoint.of_stage(str(path), stage, keep_last=9).save(
                {
                    "step": step,
                    "validation_loss": loss,
                    "validation_accuracy": 0.5,
                    "seed": 3,
                },
                weights=[keras.Variable([1.0], name="w")],
                optimizer=[],
            )
        return str(path)

    return write


def test_nothing_trained(tmp_path):
    assert best.runs(str(tmp_path)) == (None, None)
    assert best.states(str(tmp_path)) == {}


def test_the_best_of_each_stage(save):
    save("run", "pretrain", {10: 0.7, 20: 0.5, 30: 0.6})
    path = save("run", "finetune", {4: 0.1, 8: 0.2})
    tuned, pretrained = best.runs(path)
    assert tuned.checkpoint.name == "step-000000004"
    assert pretrained.checkpoint.name == "step-000000020"
    assert (tuned.stage, pretrained.stage) == ("finetune", "pretrain")
    assert best.states(path) == {
        "finetune": {
            "step": 4,
            "validation_loss": 0.1,
            "validation_accuracy": 0.5,
        },
        "pretrain": {
            "step": 20,
            "validation_loss": 0.5,
            "validation_accuracy": 0.5,
        },
    }


def test_without_pretraining_that_of_the_run_it_began_from(save):
    other = save("other", "pretrain", {10: 0.7})
    path = save("run", "finetune", {4: 0.1}, init_from=other)
    tuned, pretrained = best.runs(path)
    assert tuned.resolved == {"from": "run"}
    assert pretrained.resolved == {"from": "other"}
    # Its own counts, once there is one.
    save("run", "pretrain", {20: 0.9}, init_from=other)
    _, pretrained = best.runs(path)
    assert pretrained.resolved == {"from": "run"}


@pytest.mark.parametrize(("verify", "step"), [(True, 10), (False, 20)])
def test_damaged_checkpoints_are_looked_at_only_on_demand(save, verify, step):
    path = save("run", "pretrain", {10: 0.7, 20: 0.5})
    _, pretrained = best.runs(path)
    (pretrained.checkpoint / "weights.safetensors").unlink()
    assert best.states(path, verify=verify)["pretrain"]["step"] == step


def test_an_older_export_is_called_one(save, caplog):
    save("run", "pretrain", {10: 0.7})
    path = save("run", "finetune", {4: 0.2})
    facts = {"checkpoints": best.states(path)}
    best.warn_if_older(path, facts)
    assert not caplog.text
    save("run", "finetune", {8: 0.1})
    best.warn_if_older(path, facts)
    assert (
        "another finetune (step 4, validation_loss 0.2, validation_accuracy"
        " 0.5) than the run has now (step 8, validation_loss 0.1,"
        in caplog.text
    )
    assert "pretrain" not in caplog.text
    # What had not been trained then is newer, too.
    del facts["checkpoints"]["pretrain"]
    best.warn_if_older(path, facts)
    assert "another pretrain (none) than" in caplog.text


def test_the_teacher_of_a_round_is_the_best_from_before_it(save):
    path = save("run", "finetune", {4: 0.5})
    save("run", "finetune_round1", {6: 0.4})
    save("run", "finetune_round2", {8: 0.3})
    save("run", "finetune_round10", {9: 0.2})
    for number, stage in ((1, "finetune"), (2, "finetune_round1")):
        found = best.teacher(path, number)
        assert found.checkpoint.parent.name == stage
    assert best.teacher(path, 10).checkpoint.parent.name == "finetune_round2"
    tuned, _ = best.runs(path)
    assert tuned.checkpoint.parent.name == "finetune_round10"


def test_a_student_that_is_no_better_is_not_taken(save):
    path = save("run", "finetune", {4: 0.5})
    save("run", "finetune_round1", {6: 0.5})
    tuned, _ = best.runs(path)
    assert tuned.checkpoint.parent.name == "finetune"
