"""The training loop: steps, logs, validation, checkpoints and stops."""

import dataclasses
import logging
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from configs import automatic, runtime, schema
from trainer.training import metrics as metrics_lib
from trainer.training import objective, profiling, signals, workers

_log = logging.getLogger(__name__)
_REMEDY = (
    "The last checkpoint is from before. Lower optimizer.learning_rate, raise"
    " optimizer.warmup_steps, or use train.precision=float32."
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps after which the loop returns to Python, and what it does there.

    All numbers are steps. An `evaluate_every` of 0 means never.
    """

    num_steps: int
    steps_per_epoch: int
    steps_per_call: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    profiled: tuple[int, int] = (0, 0)  # First, and the one after the last.
    patience: int = 0  # Epochs without a better validation; 0 = no limit.
    two_level_steps: int = 0  # The first ones, with a softmax in two levels.

    @classmethod
    def of(
        cls,
        train: schema.TrainConfig,
        config: schema.Config,
        num_rows: int,
        *,
        enough: Callable[[int], int] = automatic.pretraining_steps,
    ) -> "Plan":
        """The plan of a stage.

        Args:
          train: the section `train`, as the stage uses it.
          config: of the run.
          num_rows: to train on.
          enough: steps of an epoch -> steps of the run, if the config gives
            neither steps nor epochs.
        """
        per_epoch = train.steps_per_epoch or -(
            -num_rows // train.global_batch_size
        )
        return cls(
            num_steps=train.num_steps
            or train.num_epochs * per_epoch
            or enough(per_epoch),
            steps_per_epoch=per_epoch,
            steps_per_call=train.steps_per_call,
            log_every=train.log_every,
            evaluate_every=config.evaluation.every_steps,
            checkpoint_every=config.checkpoint.every_steps,
            profiled=train.profiled,
        )

    def next_boundary(self, step: int) -> int:
        """The step at which a call that starts at `step` has to end."""
        periods = (
            self.steps_per_epoch,
            self.log_every,
            self.evaluate_every,
            self.checkpoint_every,
        )
        ends = [step - step % n + n for n in periods if n]
        ends += [
            end for end in (*self.profiled, self.two_level_steps) if end > step
        ]
        return min(*ends, step + self.steps_per_call, self.num_steps)

    def ends_epoch(self, step: int) -> bool:
        """Whether the epoch, or the run, ends after this many steps."""
        return step % self.steps_per_epoch == 0 or step == self.num_steps

    def evaluates(self, step: int) -> bool:
        """Whether validation is due after this many steps."""
        due = self.evaluate_every and step % self.evaluate_every == 0
        return bool(due) or self.ends_epoch(step)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after this many steps."""
        return step % self.checkpoint_every == 0 or self.evaluates(step)

    def finishes(self, step: int, best_step: int) -> bool:
        """Whether the run is over after this many steps.

        Args:
          step: how many.
          best_step: after which validation was best; 0 if there was none.
        """
        counts = self.patience and best_step and self.ends_epoch(step)
        is_late = step - best_step >= self.patience * self.steps_per_epoch
        return step >= self.num_steps or bool(counts and is_late)


@dataclasses.dataclass
class Best:
    """The best validation of a stage so far; every checkpoint records it.

    Attributes:
      by: which mean counts, "loss" or "accuracy".
      step: after which it was measured; 0 if there was no validation yet.
      value: the best value of that mean.
    """

    by: str = "loss"
    step: int = 0
    value: float = 0.0

    def see(self, step: int, validation: dict[str, float]) -> None:
        """Updates the best with the means after a step, if there are any."""
        if self.by not in validation:
            return
        gain = validation[self.by] - self.value
        if not self.step or (gain > 0 if self.by == "accuracy" else gain < 0):
            self.step, self.value = step, validation[self.by]


@dataclasses.dataclass
class _Interval:
    """Sums since the last log line, the last record or the last epoch."""

    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def add(self, sums: dict[str, float], seconds: float) -> None:
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.seconds += seconds

    def logs(self, learning_rate: float) -> dict[str, float]:
        tokens = self.sums["tokens"] / self.seconds
        return {
            **objective.means(self.sums),
            "learning_rate": learning_rate,
            "real_tokens_per_second": round(tokens, 1),
        }

    def totals(self) -> dict[str, float]:
        """The values that add up over the events of a run."""
        return {
            "real_tokens": self.sums["tokens"],
            "seconds": round(self.seconds, 3),
        }


@dataclasses.dataclass
class Loop:
    """Trains from a step to the end of the plan.

    Attributes:
      plan: where to stop and what to do there.
      train_call: from `step.create_train_call`.
      evaluate: () -> means such as loss and accuracy; {} without validation.
      save: (step, means or {}) -> writes a checkpoint.
      learning_rate: step -> rate, for the log.
      metrics: the log.
      callbacks: Keras callbacks, with their model set.
      stop: the signals that end the run early.
      trace: records the steps `plan.profiled`.
      best: kept up to date; where patience ends, it ends the run.
    """

    plan: Plan
    train_call: Callable[..., Any]
    evaluate: Callable[[], dict[str, float]]
    save: Callable[[int, dict[str, float]], None]
    learning_rate: Callable[[int], float]
    metrics: metrics_lib.MetricsLog
    callbacks: keras.callbacks.CallbackList
    stop: signals.StopSignal
    trace: profiling.Trace
    best: Best = dataclasses.field(default_factory=Best)

    def run(
        self, iterator: Any, *, first_step: int, validation_due: bool = False
    ) -> None:
        """Trains to the end.

        Args:
          iterator: yields batches from `first_step` on.
          first_step: where to begin.
          validation_due: a signal came in the last step before validation;
            validation and the end of the epoch are made up for first.

        Raises:
          runtime.Stopped: a signal came; the run has been saved before.
          ValueError: a loss is not finite; nothing has been saved since.
        """
        self.callbacks.model.stop_training = False
        self.callbacks.on_train_begin()
        try:
            with self.trace:
                if validation_due:
                    self._make_up(first_step)
                self._train(iterator, first_step)
        finally:
            self.callbacks.on_train_end()

    def _make_up(self, step: int) -> None:
        """Validates the first step and ends its epoch, if it was the last."""
        ends_epoch = self.plan.ends_epoch(step)
        if ends_epoch:
            epoch = (step - 1) // self.plan.steps_per_epoch
            self.callbacks.on_epoch_begin(epoch)
        validation = self._save(step, validates=True)
        if ends_epoch:
            # The means over the training steps went with the process.
            self._end_epoch(step, {}, validation)

    def _train(self, iterator: Any, step: int) -> None:
        plan, epoch, slow, named = self.plan, -1, "", ""
        recent, whole, unrecorded = _Interval(), _Interval(), _Interval()
        while not (plan.finishes(step, self.best.step) or self._callback_stops):
            if step // plan.steps_per_epoch != epoch:
                epoch, whole = step // plan.steps_per_epoch, _Interval()
                self.callbacks.on_epoch_begin(epoch)
            self.trace.at(step)
            self.callbacks.on_train_batch_begin(step % plan.steps_per_epoch)
            start = time.perf_counter()
            done, wants_stop, totals = self.train_call(
                iterator,
                tf.constant(step, tf.int64),
                tf.constant(plan.next_boundary(step) - step, tf.int32),
            )
            sums = {name: float(value) for name, value in totals.items()}
            seconds = time.perf_counter() - start
            first, step = step, step + int(done)
            self.trace.at(step)
            if not math.isfinite(sums["loss"]):
                raise ValueError(
                    "The loss or its gradient is not finite between steps"
                    f" {first} and {step}. {_REMEDY}"
                )
            for interval in (recent, whole, unrecorded):
                interval.add(sums, seconds)
            rate = self.learning_rate(step - 1)
            logs = recent.logs(rate)
            self.callbacks.on_train_batch_end(
                (step - 1) % plan.steps_per_epoch, logs
            )
            # At the end there is nothing left to stop.
            signal_stops = float(wants_stop) > 0 and step < plan.num_steps
            stops = signal_stops or self._callback_stops
            if step % plan.log_every == 0 or plan.ends_epoch(step) or stops:
                if "waiting" in recent.sums:
                    before = slow
                    slow, longer = workers.slow_worker(
                        recent.sums["waiting"] / recent.seconds
                    )
                    # Twice in a row: compiling and the like take but one.
                    if slow and slow == before != named:
                        named = slow
                        _log.info(
                            "%s is slow: the others wait for it %.0f %% of the"
                            " time",
                            slow,
                            100 * longer,
                        )
                recent = _Interval()
            else:
                logs = {}
            if logs or plan.saves(step):
                # A run that resumes from a checkpoint between two log lines
                # has nothing else to know its earlier totals from.
                self.metrics.write(step, {**logs, **unrecorded.totals()})
                unrecorded = _Interval()
            validation = dict[str, float]()
            if plan.saves(step) or stops:
                validates = plan.evaluates(step) and not signal_stops
                validation = self._save(step, validates=validates)
            if signal_stops:
                # Another worker's signal stops this one as well.
                raise runtime.Stopped(self.stop.number or signal.SIGTERM)
            if plan.ends_epoch(step):
                self._end_epoch(step, whole.logs(rate), validation)
        if not plan.finishes(step, self.best.step):
            _log.info("A callback asked to stop after step %d.", step)

    def _save(self, step: int, *, validates: bool) -> dict[str, float]:
        """Validates, if asked to, and writes a checkpoint: the means or {}."""
        means = dict[str, float]()
        if validates:
            self.callbacks.on_test_begin()
            means = self.evaluate()
            if not math.isfinite(means.get("loss", 0.0)):
                raise ValueError(
                    f"The validation loss is not finite after step {step}."
                    f" {_REMEDY}"
                )
            self.callbacks.on_test_end(means)
        if means:
            self.metrics.write(
                step, {f"validation_{k}": v for k, v in means.items()}
            )
        self.best.see(step, means)
        self.metrics.flush()
        self.save(step, means)
        return means

    def _end_epoch(
        self, step: int, logs: dict[str, float], validation: dict[str, float]
    ) -> None:
        named = {f"val_{name}": value for name, value in validation.items()}
        epoch = (step - 1) // self.plan.steps_per_epoch
        self.callbacks.on_epoch_end(epoch, {**logs, **named})

    @property
    def _callback_stops(self) -> bool:
        return bool(self.callbacks.model.stop_training)


def evaluate(
    call: Callable[[Any], dict[str, tf.Tensor]],
    batches: Any,
    num_batches: int,
) -> dict[str, float]:
    """Means over `num_batches` global batches.

    Sums are added in float64, here on the host.
    """
    iterator, total = iter(batches), dict[str, float]()
    for _ in range(num_batches):
        for name, value in call(iterator).items():
            total[name] = total.get(name, 0.0) + float(value)
    return objective.means(total)
