"""The loop around the step: calls, logs, evaluations, checkpoints, stops."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from configs import runtime
from trainer.training import metrics as metrics_lib
from trainer.training import objective, signals

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """At which steps the loop comes back to Python, and why.

    Every number is in steps; 0 = never, for `evaluate_every`.
    """

    num_steps: int
    steps_per_epoch: int
    steps_per_call: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int

    def next_boundary(self, step: int) -> int:
        """Where the call that starts at `step` ends, at the latest."""
        periods = (
            self.steps_per_epoch,
            self.log_every,
            self.evaluate_every,
            self.checkpoint_every,
        )
        ends = [step - step % n + n for n in periods if n]
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


@dataclasses.dataclass
class _Interval:
    """Sums since the last log line."""

    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def add(self, sums: dict[str, float], seconds: float) -> None:
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.seconds += seconds

    def logs(self) -> dict[str, float]:
        tokens = self.sums["tokens"] / self.seconds
        return {
            **objective.means(self.sums),
            "real_tokens_per_second": round(tokens, 1),
        }


@dataclasses.dataclass
class Loop:
    """Trains from a step to the end of the plan.

    Attributes:
      plan: where to stop and what to do there.
      train_call: from `step.create_train_call`.
      evaluate: () -> means such as loss and accuracy; {} = no validation.
      save: (step, validation loss or None) -> writes a checkpoint.
      learning_rate: step -> rate, for the log.
      metrics: where events go.
      callbacks: Keras callbacks, with their model set.
      stop: the signals that end the run early.
    """

    plan: Plan
    train_call: Callable[..., Any]
    evaluate: Callable[[], dict[str, float]]
    save: Callable[[int, float | None], None]
    learning_rate: Callable[[int], float]
    metrics: metrics_lib.MetricsLog
    callbacks: keras.callbacks.CallbackList
    stop: signals.StopSignal

    def run(self, iterator: Any, *, first_step: int) -> None:
        """Trains to the end; `iterator` yields batches from `first_step` on.

        Raises:
          runtime.Stopped: a signal came; the run has been saved before.
          ValueError: the loss is not finite; nothing has been saved since.
        """
        plan, step = self.plan, first_step
        interval = _Interval()
        self.callbacks.on_train_begin()
        if step % plan.steps_per_epoch:
            self.callbacks.on_epoch_begin(step // plan.steps_per_epoch)
        while step < plan.num_steps:
            if step % plan.steps_per_epoch == 0:
                self.callbacks.on_epoch_begin(step // plan.steps_per_epoch)
            step, logs, wants_stop = self._call(iterator, step, interval)
            if step % plan.log_every == 0 or plan.ends_epoch(step):
                self.metrics.write(step, logs)
                interval = _Interval()
            self._after(step, logs, wants_stop)
            if self.callbacks.model.stop_training:
                _log.info("A callback asked to stop after step %d.", step)
                self.save(step, None)
                break
        self.callbacks.on_train_end()

    def _call(
        self, iterator: Any, step: int, interval: _Interval
    ) -> tuple[int, dict[str, float], bool]:
        """Runs to the next boundary: (step there, logs, whether to stop)."""
        target = self.plan.next_boundary(step)
        place = step % self.plan.steps_per_epoch
        self.callbacks.on_train_batch_begin(place)
        start = time.perf_counter()
        done, wants_stop, sums = self.train_call(
            iterator,
            tf.constant(step, tf.int64),
            tf.constant(target - step, tf.int32),
        )
        values = {name: float(value) for name, value in sums.items()}
        interval.add(values, time.perf_counter() - start)
        reached = step + int(done)
        if not math.isfinite(values["loss"]):
            raise ValueError(
                f"The loss is {values['loss']} between steps {step} and"
                f" {reached}. The last checkpoint is from before. Lower"
                " optimizer.learning_rate, raise optimizer.warmup_steps, or"
                " use train.precision=float32."
            )
        logs = interval.logs()
        logs["learning_rate"] = self.learning_rate(reached - 1)
        place = (reached - 1) % self.plan.steps_per_epoch
        self.callbacks.on_train_batch_end(place, logs)
        return reached, logs, float(wants_stop) > 0

    def _after(
        self, step: int, logs: dict[str, float], wants_stop: bool
    ) -> None:
        """Validation, checkpoint, end of epoch, stop; in this order."""
        plan, validation = self.plan, dict[str, float]()
        if plan.evaluates(step) and not wants_stop:
            self.callbacks.on_test_begin()
            validation = self.evaluate()
            self.callbacks.on_test_end(validation)
        if validation:
            self.metrics.write(
                step, {f"validation_{k}": v for k, v in validation.items()}
            )
        if plan.saves(step) or wants_stop:
            self.save(step, validation.get("loss"))
        if plan.ends_epoch(step) and not wants_stop:
            named = {f"val_{name}": v for name, v in validation.items()}
            epoch = (step - 1) // plan.steps_per_epoch
            self.callbacks.on_epoch_end(epoch, {**logs, **named})
        if wants_stop and step < plan.num_steps:
            # Another worker's signal stops this one as well.
            raise runtime.Stopped(self.stop.number or 15)


def evaluate(
    call: Callable[[Any], dict[str, tf.Tensor]],
    batches: Any,
    num_batches: int,
) -> dict[str, float]:
    """Means over `num_batches` global batches, and `perplexity`.

    Sums are added in float64, here on the host.
    """
    iterator, total = iter(batches), dict[str, float]()
    for _ in range(num_batches):
        for name, value in call(iterator).items():
            total[name] = total.get(name, 0.0) + float(value)
    means = objective.means(total)
    if "loss" in means:
        means["perplexity"] = math.exp(min(means["loss"], 700.0))
    return means
