"""When the loop logs, validates, saves and stops; and who is told."""

import contextlib
import math
import signal
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import runtime
from tests.trainer.training import conftest as tiny
from trainer.training import loop, metrics, signals, workers


def _plan(**fields):
    never = 1000
    return loop.Plan(
        **{
            "num_steps": 12,
            "steps_per_epoch": 6,
            "steps_per_call": never,
            "log_every": never,
            "evaluate_every": 0,
            "checkpoint_every": never,
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("step", "fields", "expected"),
    [
        (0, {}, 6),
        (5, {}, 6),
        (6, {}, 12),
        (7, {"num_steps": 8}, 8),
        (7, {"steps_per_call": 3}, 10),
        (7, {"log_every": 4}, 8),
        (7, {"evaluate_every": 9}, 9),
        (7, {"checkpoint_every": 11}, 11),
        (7, {"log_every": 4, "steps_per_call": 1}, 8),
        (9, {"log_every": 9, "evaluate_every": 3}, 12),
        (10**12, {"num_steps": 10**13}, 10**12 + 2),
        (1, {"profiled": (2, 4)}, 2),
        (2, {"profiled": (2, 4)}, 4),
        (4, {"profiled": (2, 4)}, 6),
        (1, {"two_level_steps": 2}, 2),
        (2, {"two_level_steps": 2}, 6),
    ],
)
def test_next_boundary(step, fields, expected):
    assert _plan(**fields).next_boundary(step) == expected


def test_what_is_due_when():
    plan = _plan(num_steps=14, evaluate_every=4, checkpoint_every=5)
    steps = range(1, 15)
    assert [n for n in steps if plan.ends_epoch(n)] == [6, 12, 14]
    assert [n for n in steps if plan.evaluates(n)] == [4, 6, 8, 12, 14]
    assert [n for n in steps if plan.saves(n)] == [4, 5, 6, 8, 10, 12, 14]


class Recorder(keras.callbacks.Callback):
    """Writes down every call; `act` is called with each."""

    def __init__(self, events, act=lambda event: None):
        super().__init__()
        self._events, self._act = events, act

    def _add(self, *event):
        self._events.append(event)
        self._act(event)

    def on_train_begin(self, logs=None):
        self._add("train begins")

    def on_train_end(self, logs=None):
        self._add("train ends")

    def on_epoch_begin(self, epoch, logs=None):
        self._add("epoch begins", epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._add("epoch ends", epoch, dict(logs))

    def on_train_batch_begin(self, batch, logs=None):
        self._add("call begins", batch)

    def on_train_batch_end(self, batch, logs=None):
        self._add("call ends", batch, dict(logs))

    def on_test_begin(self, logs=None):
        self._add("test begins")

    def on_test_end(self, logs=None):
        self._add("test ends", dict(logs))


class Trace(contextlib.nullcontext):
    """Writes down where it is asked."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def at(self, step):
        self.steps.append(step)


class World:
    """A loop around made-up steps: the loss of step n is n, its weight 2."""

    def __init__(self, path, *, first_step=0, act=lambda event: None, **plan):
        self.events, self.saved, self.calls = [], [], []
        self.more_sums = {}
        self.stop_after = math.inf  # A signal comes in this step.
        self.loss_of = float
        self.validation = {"loss": 5.0, "accuracy": 0.5}
        self.path, self.first_step = path, first_step
        self.model = types.SimpleNamespace(stop_training=False)
        self.stop = types.SimpleNamespace(number=0)
        self.trace = Trace()
        self.best = loop.Best()
        self.callbacks = [Recorder(self.events, act)]
        self.plan = _plan(**plan)

    def train_call(self, iterator, first_step, num_steps):
        assert first_step.dtype == tf.int64 and num_steps.dtype == tf.int32
        first, count = int(first_step), int(num_steps)
        done = min(count, max(1, int(min(self.stop_after - first, count))))
        self.calls.append((first, done))
        steps = range(first, first + done)
        sums = {
            "loss": 2.0 * sum(self.loss_of(n) for n in steps),
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
        self.events.append(("evaluate",))
        return dict(self.validation)

    def save(self, step, validation):
        self.events.append(("save", step))
        self.saved.append((step, validation.get("loss")))

    def run(self, **kwargs):
        with metrics.MetricsLog(
            self.path, stage="s", first_step=self.first_step
        ) as log:
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
                trace=self.trace,
                best=self.best,
            ).run(None, first_step=self.first_step, **kwargs)

    def logged(self, name="loss"):
        events = metrics.read(self.path, "s")
        return {e["step"]: e[name] for e in events if name in e}

    def names(self):
        return [event[0] for event in self.events]

    def epochs(self):
        return [e[:2] for e in self.events if e[0].startswith("epoch")]


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
    world = World(tmp_path, num_steps=8, steps_per_epoch=6)
    world.run()
    assert world.calls == [(0, 6), (6, 2)]
    epoch = [
        "epoch begins",
        "call begins",
        "call ends",
        "test begins",
        "evaluate",
        "test ends",
        "save",
        "epoch ends",
    ]
    assert world.names() == ["train begins", *epoch, *epoch, "train ends"]
    assert world.epochs() == [
        ("epoch begins", 0),
        ("epoch ends", 0),
        ("epoch begins", 1),
        ("epoch ends", 1),
    ]
    assert world.saved == [(6, 5.0), (8, 5.0)]
    assert world.logged() == {6: 2.5, 8: 6.5}
    assert world.logged("accuracy") == {6: 0.5, 8: 0.5}
    assert world.logged("learning_rate") == {6: 0.05, 8: 0.07}
    assert world.logged("validation_loss") == {6: 5.0, 8: 5.0}
    assert all(n > 0 for n in world.logged("real_tokens_per_second").values())


def test_batches_are_counted_within_the_epoch(tmp_path):
    world = World(tmp_path, steps_per_call=4)
    world.run()
    begins = [e[1] for e in world.events if e[0] == "call begins"]
    ends = [e[1] for e in world.events if e[0] == "call ends"]
    assert begins == [0, 4, 0, 4]
    assert ends == [3, 5, 3, 5]


def test_a_log_is_the_mean_over_all_calls_since_the_last(tmp_path):
    world = World(tmp_path, steps_per_call=2, log_every=5)
    world.run()
    assert world.logged() == {5: 2.0, 6: 5.0, 10: 7.5, 12: 10.5}
    shown = [e[2]["loss"] for e in world.events if e[0] == "call ends"]
    assert shown == [0.5, 1.5, 2.0, 5.0, 6.5, 7.5, 10.5]


def test_an_epoch_ends_with_the_mean_of_the_epoch(tmp_path):
    world = World(tmp_path, steps_per_call=2, log_every=5)
    world.run()
    logs = [event[2] for event in world.events if event[0] == "epoch ends"]
    assert [log["loss"] for log in logs] == [2.5, 8.5]
    assert [log["val_loss"] for log in logs] == [5.0, 5.0]
    assert [log["val_accuracy"] for log in logs] == [0.5, 0.5]


@pytest.mark.parametrize("first_step", range(12))
def test_every_epoch_begins_once_wherever_a_run_goes_on(tmp_path, first_step):
    world = World(tmp_path, first_step=first_step, steps_per_call=1)
    world.run()
    assert [first for first, _ in world.calls] == list(range(first_step, 12))
    epochs = range(first_step // 6, 2)
    assert world.epochs() == [
        (what, epoch)
        for epoch in epochs
        for what in ("epoch begins", "epoch ends")
    ]


def test_a_run_that_is_done_does_nothing(tmp_path):
    world = World(tmp_path, first_step=12)
    world.run()
    assert world.names() == ["train begins", "train ends"]


def test_resumed_metrics_are_those_of_one_run(tmp_path):
    whole = World(tmp_path / "whole", log_every=2, checkpoint_every=4)
    whole.run()
    World(tmp_path / "cut", num_steps=7, log_every=2).run()
    World(tmp_path / "cut", first_step=4, log_every=2).run()

    def lines(path):
        events = metrics.read(path, "s")
        return [
            {
                k: v
                for k, v in e.items()
                if k not in ("real_tokens_per_second", "seconds")
            }
            for e in events
        ]

    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


@pytest.mark.parametrize("kill", [3, 4, 5])
def test_a_kill_between_two_log_lines_loses_no_token(tmp_path, kill):
    def killed(event):
        if event == ("call begins", kill):
            raise RuntimeError

    plan = {"log_every": 6, "checkpoint_every": 2, "steps_per_call": 1}
    before = World(tmp_path, act=killed, **plan)
    with pytest.raises(RuntimeError):
        before.run()
    World(tmp_path, first_step=before.saved[-1][0], **plan).run()
    assert sum(before.logged("real_tokens").values()) == 10 * 12
    assert [*before.logged()] == [6, 12]


def test_a_signal_saves_at_once_and_ends_the_run(tmp_path):
    world = World(tmp_path)
    world.stop_after, world.stop.number = 4, signal.SIGINT
    with pytest.raises(runtime.Stopped) as stopped:
        world.run()
    assert stopped.value.exit_code == 130
    assert world.calls == [(0, 4)]
    assert world.saved == [(4, None)]
    assert world.logged() == {4: 1.5}  # No step is missing from the log.
    assert "evaluate" not in world.names()
    assert "epoch ends" not in world.names()
    assert world.names()[-1] == "train ends"


def test_the_signal_of_another_worker_counts_as_sigterm(tmp_path):
    world = World(tmp_path)
    world.stop_after = 4
    with pytest.raises(runtime.Stopped) as stopped:
        world.run()
    assert stopped.value.exit_code == 143


def test_a_signal_in_the_last_step_of_an_epoch(tmp_path):
    world = World(tmp_path)
    world.stop_after = 6
    with pytest.raises(runtime.Stopped):
        world.run()
    assert world.saved == [(6, None)]


@pytest.mark.parametrize("stop_after", [12, 11.5])
def test_a_signal_in_the_last_step_of_the_run_is_late(tmp_path, stop_after):
    world = World(tmp_path)
    world.stop_after = stop_after
    world.run()
    assert world.saved == [(6, 5.0), (12, 5.0)]
    assert world.epochs()[-1] == ("epoch ends", 1)


def test_a_signal_during_the_last_call_but_before_its_end(tmp_path):
    world = World(tmp_path)
    world.stop_after = 11
    with pytest.raises(runtime.Stopped):
        world.run()
    assert world.saved == [(6, 5.0), (11, None)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step", [6, 8, 11])
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
    assert world.names()[-1] == "train ends"


def test_a_validation_loss_that_is_not_finite_saves_nothing(tmp_path):
    world = World(tmp_path)
    world.validation = {"loss": math.nan}
    with pytest.raises(ValueError, match="validation loss .* after step 6"):
        world.run()
    assert world.saved == []
    assert world.logged("validation_loss") == {}


def test_without_validation_rows(tmp_path):
    world = World(tmp_path)
    world.validation = {}
    world.run()
    assert world.saved == [(6, None), (12, None)]
    assert world.logged("validation_loss") == {}


def test_without_a_prediction_there_is_no_loss_but_a_log(tmp_path):
    world = World(tmp_path)
    call = world.train_call

    def nothing(*args):
        done, wants_stop, sums = call(*args)
        return done, wants_stop, {**dict.fromkeys(sums, 0.0), "tokens": 1.0}

    world.train_call = nothing
    world.run()
    assert world.logged() == {}
    assert world.logged("learning_rate") == {6: 0.05, 12: 0.11}


@pytest.mark.parametrize(
    ("event", "saved", "last"),
    [
        ("call ends", [(3, None)], 3),
        ("epoch ends", [(6, 5.0)], 6),
        ("test ends", [(6, 5.0)], 6),
    ],
)
def test_a_callback_stops_the_run(tmp_path, event, saved, last):
    def act(happened):
        if happened[0] == event:
            world.model.stop_training = True

    world = World(tmp_path, steps_per_call=3, act=act)
    world.run()
    assert world.saved == saved
    assert max(world.logged()) == last
    assert world.names()[-1] == "train ends"


def test_a_validation_that_a_signal_left_out_is_made_up_for(tmp_path):
    world = World(tmp_path, first_step=6)
    world.run(validation_due=True)
    assert world.saved == [(6, 5.0), (12, 5.0)]
    assert world.logged("validation_loss") == {6: 5.0, 12: 5.0}
    assert world.calls == [(6, 6)]
    assert world.best.step == 6
    # The callbacks of the epoch are called, too, at its last step.
    assert world.epochs() == [
        ("epoch begins", 0),
        ("epoch ends", 0),
        ("epoch begins", 1),
        ("epoch ends", 1),
    ]
    assert world.names().index("save") < world.names().index("epoch ends")


def test_a_validation_in_mid_epoch_ends_no_epoch(tmp_path):
    world = World(tmp_path, first_step=4, evaluate_every=4)
    world.run(validation_due=True)
    assert world.saved[0] == (4, 5.0)
    assert world.epochs()[:2] == [("epoch begins", 0), ("epoch ends", 0)]
    assert world.calls == [(4, 2), (6, 2), (8, 4)]


@pytest.mark.parametrize(
    ("by", "values", "kept"),
    [
        ("loss", [3.0, 2.0, 2.0, 2.5, 1.0], [1, 2, 2, 2, 5]),
        ("accuracy", [0.0, 0.2, 0.2, 0.1, 0.3], [1, 2, 2, 2, 5]),
    ],
)
def test_the_best_is_the_first_of_equals(by, values, kept):
    best, steps = loop.Best(by), []
    other = {"loss": "accuracy", "accuracy": "loss"}[by]
    for step, value in enumerate(values, start=1):
        best.see(step, {by: value, other: 0.5})
        best.see(step + 100, {})
        steps.append(best.step)
        assert best.value == values[best.step - 1]
    assert steps == kept


# Epochs of 3 steps. Validation is best after the second; 4 is in mid-epoch.
LOSSES = {3: 3.0, 6: 2.0, 9: 2.5, 12: 2.0, 15: 1.0, 18: 1.5}


def _impatient(path, patience, **kwargs):
    fields = {"num_steps": 18, "steps_per_epoch": 3, "checkpoint_every": 4}
    world = World(path, patience=patience, **fields, **kwargs)
    world.evaluate = lambda: {"loss": LOSSES[world.steps()]}
    world.steps = lambda: sum(world.calls[-1]) if world.calls else 0
    return world


@pytest.mark.parametrize(
    ("patience", "last"), [(0, 18), (1, 9), (2, 12), (3, 18)]
)
def test_patience_ends_a_run(tmp_path, patience, last):
    world = _impatient(tmp_path, patience)
    world.run()
    assert world.saved[-1][0] == last
    assert world.names()[-2:] == ["epoch ends", "train ends"]


@pytest.mark.parametrize("killed_after", [3, 4, 6, 8, 9, 12])
def test_patience_does_not_depend_on_kills(tmp_path, killed_after):
    whole = _impatient(tmp_path / "whole", 2)
    bests = {}
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


def test_without_validation_patience_never_ends(tmp_path):
    world = World(tmp_path, patience=1, steps_per_epoch=2)
    world.validation = {}
    world.run()
    assert world.saved[-1] == (12, None)


def test_evaluation_adds_up_in_float64():
    big = 2.0**24

    def call(iterator):
        number = next(iterator)
        loss = big if number == 0 else 1.0
        return {
            "loss": tf.constant(loss),
            "weight": tf.constant(1.0),
            "correct": tf.constant(float(number % 2)),
        }

    means = loop.evaluate(call, range(100), 5)
    assert means["loss"] == (big + 4) / 5
    assert means["accuracy"] == 0.4


def test_evaluation_of_nothing():
    zeros = {"loss": 0.0, "weight": 0.0, "correct": 0.0}
    assert loop.evaluate(lambda iterator: zeros, [], 2) == {}


def test_keras_callbacks_drive_a_real_model(tmp_path):
    model = tiny.create(tiny.mirrored(1), learning_rate=0.01)
    model.model.optimizer = model.optimizer
    heard = []
    early = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=1, restore_best_weights=True
    )
    callbacks = keras.callbacks.CallbackList(
        [
            early,
            keras.callbacks.History(),
            keras.callbacks.TensorBoard(str(tmp_path / "board")),
            keras.callbacks.ModelCheckpoint(
                str(tmp_path / "{epoch}.weights.h5"),
                monitor="loss",
                save_weights_only=True,
            ),
            keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: heard.append(epoch)
            ),
        ],
        model=model.model,
        steps=2,
        epochs=5,
    )
    losses = iter([3.0, 2.0, 2.5, 1.0])
    with (
        metrics.MetricsLog(tmp_path, stage="s", first_step=0) as log,
        signals.StopSignal() as stop,
    ):
        loop.Loop(
            plan=_plan(num_steps=10, steps_per_epoch=2),
            train_call=model.call,
            evaluate=lambda: {"loss": next(losses)},
            save=lambda step, loss: None,
            learning_rate=lambda step: 0.01,
            metrics=log,
            callbacks=callbacks,
            stop=stop,
            trace=Trace(),
        ).run(iter(tiny.batches(model.strategy)), first_step=0)
    assert heard == [0, 1, 2]  # The third was no better than the second.
    assert model.model.history.history["val_loss"] == [3.0, 2.0, 2.5]
    assert np.isfinite(model.model.history.history["loss"]).all()
    assert len(list(tmp_path.glob("*.weights.h5"))) == 3
    assert list((tmp_path / "board" / "train").iterdir())
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4


def test_the_trace_is_asked_before_and_after_every_call(tmp_path):
    world = World(tmp_path, num_steps=6, profiled=(2, 5))
    world.run()
    assert world.calls == [(0, 2), (2, 3), (5, 1)]
    assert world.trace.steps == [0, 2, 2, 5, 5, 6]
