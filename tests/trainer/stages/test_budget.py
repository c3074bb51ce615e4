"""`train.minutes` decides how many steps there are, once."""

import types

import pytest
import tensorflow as tf

from trainer import workdir as workdir_lib
from trainer.commands import pretrain
from trainer.run import Run
from trainer.stages import budget, prompts


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, as a list with the time."""
    now = [0.0]
    fake = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(budget, "time", fake)
    return now


def task(clock, seconds, *, compiling=9.0, steps_per_epoch=100):
    """Takes so many seconds a step; the first call compiles, too."""

    def create_train_call(stop):
        wait = [compiling]

        def call(batches, first_step, number):
            clock[0] += wait.pop() if wait else 0.0
            clock[0] += seconds * int(number)
            return (number,)

        return call

    return types.SimpleNamespace(
        create_train_call=create_train_call,
        first_batches=lambda number: [],
        plan=types.SimpleNamespace(steps_per_epoch=steps_per_epoch),
        strategy=tf.distribute.get_strategy(),
    )


@pytest.fixture
def decide(clock, tiny, one_device, tmp_path):
    """A function: stage, seconds a step, arguments -> steps of both stages."""
    config = tiny({"train.minutes": 10.0, "train.num_steps": 0})
    workdir_lib.record(str(tmp_path), config, {"kept": 1})

    def call(stage, seconds, *, steps_per_epoch=1_000, chief=True, **arguments):
        run = Run(config, workdir=str(tmp_path), runtime=one_device)
        run.is_chief = chief
        found = budget.decide(
            run,
            stage,
            lambda _: task(clock, seconds, steps_per_epoch=steps_per_epoch),
            **arguments,
        )
        return found.train.num_steps, found.finetune.num_steps

    return call


def test_minutes_are_shared_and_decided_once(decide, tmp_path):
    assert decide("pretrain", 0.5) == (720, 0)  # 6 of 10 minutes.
    assert decide("finetune", 0.1) == (720, 2_400)
    # On another machine, or a busy one.
    assert decide("pretrain", 5.0) == (720, 2_400)
    assert decide("finetune", 0.01) == (720, 2_400)
    resolved = workdir_lib.read(str(tmp_path))["resolved"]
    assert resolved["kept"] == 1


@pytest.mark.parametrize(
    ("stage", "seconds", "arguments", "steps"),
    [
        # Without pretraining, fine-tuning has all minutes; its stages share.
        ("finetune", 0.5, {}, (0, 1_200)),
        ("finetune", 0.5, {"share": 1 / 3}, (0, 400)),
        # A small text is not learned by heart.
        ("pretrain", 0.1, {"steps_per_epoch": 2}, (200, 0)),
        ("finetune", 0.1, {"steps_per_epoch": 2}, (0, 60)),
        ("pretrain", 1e6, {}, (1, 0)),  # There is always a step.
    ],
)
def test_how_many_steps_there_are(decide, stage, seconds, arguments, steps):
    assert decide(stage, seconds, **arguments) == steps


def test_only_the_chief_writes(decide, tmp_path):
    decide("pretrain", 0.5, chief=False)
    assert "steps" not in workdir_lib.read(str(tmp_path))["resolved"]


def test_a_run_has_the_steps_of_its_minutes_and_prompts_of_its_own(
    tiny, one_device, look, tmp_path, capsys
):
    changes = {
        "train.minutes": 1e-3,
        "train.num_steps": 0,
        "evaluation.sentences": (),
    }
    run = Run(tiny(changes), workdir=str(tmp_path), runtime=one_device)
    pretrain.run(run)
    resolved = workdir_lib.read(str(tmp_path))["resolved"]
    newest = look.checkpoints(tmp_path)[-1]
    assert newest.name == f"step-{resolved['steps']['pretrain']:09d}"
    sentences = tuple(resolved["sentences"])
    assert sentences == prompts.choose(run.config.evaluation, run.rows)
    out = capsys.readouterr().out
    assert sentences and all(f"  {text}\n" in out for text in sentences)
