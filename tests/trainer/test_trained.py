"""The best checkpoints of a run, and what an export is made from."""

import keras
import pytest

from configs import schema
from trainer import chain, checkpoint, trained, workdir


def _artifact(stage, step):
    kind = "encoder" if stage == "pretrain" else "classifier"
    return chain.Artifact(kind, {}, {"rows": stage}, step)


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
                    **_artifact(stage, step).to_dict(),
                },
                weights=[keras.Variable([1.0], name="w")],
                optimizer=[],
            )
        return str(path)

    return write


def test_the_best_of_each_stage(save, tmp_path):
    assert trained.best(str(tmp_path)) == (None, None)
    assert trained.sources(str(tmp_path)) == {}
    save("run", "pretrain", {10: 0.7, 20: 0.5, 30: 0.6})
    path = save("run", "finetune", {4: 0.1, 8: 0.2})
    tuned, pretrained = trained.best(path)
    assert tuned.checkpoint.name == "step-000000004"
    assert pretrained.checkpoint.name == "step-000000020"
    assert (tuned.stage, pretrained.stage) == ("finetune", "pretrain")
    assert trained.sources(path) == {
        "classifier": _artifact("finetune", 4).id,
        "encoder": _artifact("pretrain", 20).id,
    }
    assert trained.encoder_id(path) == _artifact("pretrain", 20).id


def test_without_pretraining_that_of_the_run_it_began_from(save):
    other = save("other", "pretrain", {10: 0.7})
    path = save("run", "finetune", {4: 0.1}, init_from=other)
    tuned, pretrained = trained.best(path)
    assert tuned.resolved == {"from": "run"}
    assert pretrained.resolved == {"from": "other"}
    # Its own counts, once there is one.
    save("run", "pretrain", {20: 0.9}, init_from=other)
    _, pretrained = trained.best(path)
    assert pretrained.resolved == {"from": "run"}


@pytest.mark.parametrize(("verify", "step"), [(True, 10), (False, 20)])
def test_damaged_checkpoints_are_looked_at_only_on_demand(save, verify, step):
    path = save("run", "pretrain", {10: 0.7, 20: 0.5})
    _, pretrained = trained.best(path)
    (pretrained.checkpoint / "weights.safetensors").unlink()
    found = trained.sources(path, verify=verify)
    assert found == {"encoder": _artifact("pretrain", step).id}


def test_an_older_export_is_called_one(save, caplog):
    save("run", "pretrain", {10: 0.7})
    path = save("run", "finetune", {4: 0.2})
    facts = chain.Artifact("export", {}, trained.sources(path)).to_dict()
    trained.warn_if_older(path, facts)
    assert not caplog.text
    save("run", "finetune", {8: 0.1})
    trained.warn_if_older(path, facts)
    assert "the run has another classifier by now" in caplog.text
    # What had not been trained then is newer, too.
    del facts["artifact"]["made_from"]["encoder"]
    trained.warn_if_older(path, facts)
    assert "another classifier and another encoder by now" in caplog.text


def test_the_teacher_of_a_round_is_the_best_from_before_it(save):
    path = save("run", "finetune", {4: 0.5})
    save("run", "finetune_round1", {6: 0.4})
    save("run", "finetune_round2", {8: 0.3})
    save("run", "finetune_round10", {9: 0.2})
    for number, stage in ((1, "finetune"), (2, "finetune_round1")):
        found = trained.teacher(path, number)
        assert found.checkpoint.parent.name == stage
    assert trained.teacher(path, 10).checkpoint.parent.name == "finetune_round2"
    tuned, _ = trained.best(path)
    assert tuned.checkpoint.parent.name == "finetune_round10"
    # One that is no better is not taken.
    save("run", "finetune_round11", {6: 0.2})
    assert trained.best(path)[0].checkpoint == tuned.checkpoint
