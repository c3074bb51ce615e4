"""When the loop logs, validates, saves and stops; and who is told."""

import contextlib
import functools
import math
import signal
import types

import keras
import pytest
import tensorflow as tf

from configs import runtime
from tests.trainer.training import conftest as tiny
from trainer.training import loop, metrics, workers

HOOKS = [
    f"{what}_{when}"
    for what in ("train", "epoch", "train_batch", "test")
    for when in ("begin", "end")
]


class World:
    """A loop around made-up steps: the loss of step n is n, its weight 2."""

    def __init__(self, path, *, first_step=0, act=lambda *event: None, **plan):
        self.path, self.first_step, self.act = path, first_step, act
        self.events, self.saved, self.calls, self.traced = [], [], [], []
        self.more_sums = {}
        self.stop_after = math.inf  # A signal comes in this step.
        self.loss_of = float
        self.validation = {"loss": 5.0, "accuracy": 0.5}
        self.model = types.SimpleNamespace(stop_training=False)
        self.stop = types.SimpleNamespace(number=0)
        self.best = loop.Best()
        recorder = keras.callbacks.Callback()
        for name in HOOKS:
            hook = functools.partial(self.hear, name)
            setattr(recorder, f"on_{name}", hook)
        self.callbacks = [recorder]
        self.plan = tiny.plan(**plan)

    def hear(self, *event, logs=None):
        *event, logs = event if logs is None else (*event, logs)
        self.events.append((*event, dict(logs)))
        self.act(*event)

    def train_call(self, iterator, first_step, num_steps):
        assert first_step.dtype == tf.int64 and num_steps.dtype == tf.int32
        first, count = int(first_step), int(num_steps)
        done = min(count, max(1, int(min(self.stop_after - first, count))))
        self.calls.append((first, done))
        sums = {
            "loss": 2.0 * sum(map(self.loss_of, range(first, first + done))),
            "weight": 2.0 * done,
            "correct": 1.0 * done,
            "tokens": 10.0 * done,
            **self.more_sums,
        }
        wants_stop = float(first + done >= self.stop_after)
        return (
            tf.constant(done),
            tf.constant(wants_stop),
            {name: tf.constant(value) for name, value in sums.items()},
        )

    def evaluate(self):
        return dict(self.validation)

    def save(self, step, validation):
        self.hear("save", step, {})
        self.saved.append((step, validation.get("loss")))

    def run(self, **kwargs):
        with metrics.MetricsLog(
            self.path, stage="s", first_step=self.first_step
        ) as log:
            trace = contextlib.nullcontext()
            trace.at = self.traced.append
            loop.Loop(
                plan=self.plan,
                train_call=self.train_call,
                evaluate=self.evaluate,
                save=self.save,
                learning_rate=lambda step: step / 100,
                metrics=log,
                callbacks=keras.callbacks.CallbackList(
                    self.callbacks,
                    model=self.model,
                    steps=self.plan.steps_per_epoch,
                ),
                stop=self.stop,
                trace=trace,
                best=self.best,
            ).run(None, first_step=self.first_step, **kwargs)

    def logged(self, name="loss"):
        events = metrics.read(self.path, "s")
        return {e["step"]: e[name] for e in events if name in e}

    def names(self):
        return [event[0] for event in self.events]

    def of(self, name):
        return [event[1:] for event in self.events if event[0] == name]

    def epochs(self):
        return [e[:2] for e in self.events if e[0].startswith("epoch")]


def _epochs(*numbers):
    return [(f"epoch_{e}", n) for n in numbers for e in ("begin", "end")]


def test_a_worker_that_is_slow_twice_in_a_row_is_named(
    tmp_path, monkeypatch, caplog
):
    world, shares = World(tmp_path, log_every=2), []
    world.more_sums = {"waiting": 1e-9}
    found = iter(["worker 1", "", "worker 1", "worker 2", "worker 2", ""])

    def slow_worker(share):
        shares.append(share)
        return next(found), 0.45

    monkeypatch.setattr(workers, "slow_worker", slow_worker)
    with caplog.at_level("INFO"):
        world.run()
    assert caplog.messages == [
        "worker 2 is slow: the others wait for it 45 % of the time"
    ]
    assert all(0 < share < 1 for share in shares)


def test_a_whole_run_in_order(tmp_path):
    world = World(tmp_path, num_steps=8, profiled=(2, 5))
    world.run()
    assert world.calls == [(0, 2), (2, 3), (5, 1), (6, 2)]
    assert world.traced == [0, 2, 2, 5, 5, 6, 6, 8]  # Around every call.
    call = ["train_batch_begin", "train_batch_end"]
    end = ["test_begin", "test_end", "save", "epoch_end"]
    assert world.names() == [
        *("train_begin", "epoch_begin", *3 * call, *end),
        *("epoch_begin", *call, *end, "train_end"),
    ]
    assert world.epochs() == _epochs(0, 1)
    assert world.saved == [(6, 5.0), (8, 5.0)]
    assert world.logged("accuracy") == {6: 0.5, 8: 0.5}
    assert world.logged("learning_rate") == {6: 0.05, 8: 0.07}
    assert world.logged("validation_loss") == {6: 5.0, 8: 5.0}
    assert all(n > 0 for n in world.logged("real_tokens_per_second").values())


def test_logs_are_means_since_the_last_log_or_over_the_epoch(tmp_path):
    world = World(tmp_path, steps_per_call=4, log_every=5)
    world.run()
    assert world.logged() == {5: 2.0, 6: 5.0, 10: 7.5, 12: 10.5}
    begins = [number for number, _ in world.of("train_batch_begin")]
    ends = [(number, e["loss"]) for number, e in world.of("train_batch_end")]
    assert begins == [0, 4, 5, 0, 4]  # Within the epoch.
    assert ends == [(3, 1.5), (4, 2.0), (5, 5.0), (3, 7.5), (5, 10.5)]
    logs = [logs for _, logs in world.of("epoch_end")]
    assert [log["loss"] for log in logs] == [2.5, 8.5]
    assert [log["val_loss"] for log in logs] == [5.0, 5.0]
    assert [log["val_accuracy"] for log in logs] == [0.5, 0.5]


@pytest.mark.parametrize("first_step", [0, 1, 5, 6, 7, 11, 12])
def test_every_epoch_begins_once_wherever_a_run_goes_on(tmp_path, first_step):
    world = World(tmp_path, first_step=first_step, steps_per_call=1)
    world.run()
    assert [first for first, _ in world.calls] == list(range(first_step, 12))
    assert world.epochs() == _epochs(*range(first_step // 6, 2))


@pytest.mark.parametrize("kill", [3, 4])
def test_a_kill_loses_nothing_of_the_log(tmp_path, kill):
    def killed(*event):
        if event == ("train_batch_begin", kill):
            raise RuntimeError

    plan = {"log_every": 6, "checkpoint_every": 2, "steps_per_call": 1}
    before = World(tmp_path, act=killed, **plan)
    with pytest.raises(RuntimeError):
        before.run()
    World(tmp_path, first_step=before.saved[-1][0], **plan).run()
    assert sum(before.logged("real_tokens").values()) == 10 * 12
    assert before.logged().keys() == {6, 12}
    assert before.logged("validation_loss") == {6: 5.0, 12: 5.0}


# 0 = the signal came to another worker, and counts as SIGTERM.
@pytest.mark.parametrize(
    ("stop_after", "number", "saved", "code"),
    [
        (4, signal.SIGINT, [(4, None)], 130),
        (6, 0, [(6, None)], 143),  # The last of an epoch.
        (11, signal.SIGTERM, [(6, 5.0), (11, None)], 143),
    ],
)
def test_a_signal_saves_at_once_and_ends_the_run(
    tmp_path, stop_after, number, saved, code
):
    world = World(tmp_path)
    world.stop_after, world.stop.number = stop_after, number
    with pytest.raises(runtime.Stopped) as stopped:
        world.run()
    assert stopped.value.exit_code == code
    assert world.saved == saved
    assert max(world.logged()) == stop_after  # No step is left out.
    assert len(world.of("test_end")) == len(saved) - 1
    assert len(world.of("epoch_end")) == len(saved) - 1
    assert world.names()[-1] == "train_end"


@pytest.mark.parametrize("stop_after", [12, 11.5])
def test_a_signal_in_the_last_step_of_the_run_is_late(tmp_path, stop_after):
    world = World(tmp_path)
    world.stop_after = stop_after
    world.run()
    assert world.saved == [(6, 5.0), (12, 5.0)]
    assert world.epochs() == _epochs(0, 1)


@pytest.mark.parametrize(("bad", "step"), [(math.nan, 6), (math.inf, 11)])
def test_a_loss_that_is_not_finite_stops_and_saves_nothing(tmp_path, bad, step):
    world = World(tmp_path, steps_per_call=3, log_every=4)
    world.loss_of = lambda n: bad if n == step else float(n)
    with pytest.raises(ValueError, match="not finite between") as error:
        world.run()
    first, done = world.calls[-1]
    assert first <= step < first + done
    assert f"between steps {first} and {first + done}." in str(error.value)
    assert world.saved == [(6, 5.0)]
    assert all(math.isfinite(loss) for loss in world.logged().values())
    assert world.names()[-1] == "train_end"


def test_a_validation_loss_that_is_not_finite_saves_nothing(tmp_path):
    world = World(tmp_path)
    world.validation = {"loss": math.nan}
    with pytest.raises(ValueError, match="validation loss .* after step 6"):
        world.run()
    assert world.saved == []
    assert world.logged("validation_loss") == {}


def test_without_rows_to_validate_and_tokens_to_predict(tmp_path):
    world = World(tmp_path, patience=1, steps_per_epoch=4)  # It ends no run.
    world.validation = {}
    world.more_sums = dict.fromkeys(("loss", "weight", "correct"), 0.0)
    world.run()
    assert world.saved == [(4, None), (8, None), (12, None)]
    assert world.logged("validation_loss") == world.logged() == {}
    assert world.logged("learning_rate") == {4: 0.03, 8: 0.07, 12: 0.11}


@pytest.mark.parametrize(
    ("event", "saved", "last"),
    [("train_batch_end", [(3, None)], 3), ("epoch_end", [(6, 5.0)], 6)],
)
def test_a_callback_stops_the_run(tmp_path, event, saved, last):
    def act(happened, *_):
        if happened == event:
            world.model.stop_training = True

    world = World(tmp_path, steps_per_call=3, act=act)
    world.run()
    assert world.saved == saved
    assert max(world.logged()) == last
    assert world.names()[-1] == "train_end"


def test_a_validation_that_a_signal_left_out_is_made_up_for(tmp_path):
    world = World(tmp_path, first_step=6)
    world.run(validation_due=True)
    assert world.saved == [(6, 5.0), (12, 5.0)]
    assert world.logged("validation_loss") == {6: 5.0, 12: 5.0}
    assert world.calls == [(6, 6)]
    assert world.best.step == 6
    # The callbacks of the epoch are called, too, at its last step.
    assert world.epochs() == _epochs(0, 1)
    assert world.names().index("save") < world.names().index("epoch_end")
    # In mid-epoch, no epoch ends.
    world = World(tmp_path, first_step=4, evaluate_every=4)
    world.run(validation_due=True)
    assert world.saved[0] == (4, 5.0)
    assert world.epochs() == _epochs(0, 1)
    assert world.calls == [(4, 2), (6, 2), (8, 4)]


# Epochs of 3 steps. Validation is best after the second; 4 is in mid-epoch.
LOSSES = {3: 3.0, 6: 2.0, 9: 2.5, 12: 2.0, 15: 1.0, 18: 1.5}


def _impatient(path, patience, **kwargs):
    fields = {"num_steps": 18, "steps_per_epoch": 3, "checkpoint_every": 4}
    world = World(path, patience=patience, **fields, **kwargs)
    world.evaluate = lambda: {"loss": LOSSES[sum(world.calls[-1])]}
    return world


@pytest.mark.parametrize(
    ("patience", "last"), [(0, 18), (1, 9), (2, 12), (3, 18)]
)
def test_patience_ends_a_run(tmp_path, patience, last):
    world = _impatient(tmp_path, patience)
    world.run()
    assert world.saved[-1][0] == last
    assert world.names()[-2:] == ["epoch_end", "train_end"]


@pytest.mark.parametrize("killed_after", [3, 4, 6, 9])
def test_patience_does_not_depend_on_kills(tmp_path, killed_after):
    whole, bests = _impatient(tmp_path / "whole", 2), {}
    save = whole.save

    def remember(step, validation):
        bests[step] = (whole.best.step, whole.best.value)
        save(step, validation)

    whole.save = remember
    whole.run()
    resumed = _impatient(tmp_path / "cut", 2, first_step=killed_after)
    resumed.best.step, resumed.best.value = bests[killed_after]
    resumed.run()
    after = [item for item in whole.saved if item[0] > killed_after]
    assert resumed.saved == after
    assert resumed.best == whole.best


def test_callbacks_of_keras(tmp_path):
    world = World(tmp_path, num_steps=10, steps_per_epoch=2)
    world.model = tiny.create_model("float32")
    world.model.optimizer = keras.optimizers.SGD(0.01)
    world.callbacks = [
        keras.callbacks.EarlyStopping("val_loss", restore_best_weights=True),
        keras.callbacks.History(),
        keras.callbacks.TensorBoard(str(tmp_path / "board")),
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True
        ),
    ]
    losses = iter([3.0, 2.0, 2.5, 1.0])
    world.evaluate = lambda: {"loss": next(losses)}
    world.run()
    history = world.model.history.history
    # The third was no better than the second.
    assert history["val_loss"] == [3.0, 2.0, 2.5]
    assert history["loss"] == [0.5, 2.5, 4.5]
    assert len(list(tmp_path.glob("*.weights.h5"))) == 3
    assert list((tmp_path / "board" / "train").iterdir())
