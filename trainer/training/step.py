"""The step: sums per replica, one all-reduce, one division, one update.

Replicas, workers, accumulation and XLA change how fast a step is, never what
it computes: gradients and weights are summed over everything, divided by the
global weight, clipped, and only then applied.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer.training import optimizers, strategies
from trainer.training.objective import Sums

Batch = dict[str, tf.Tensor]
# (batch of b rows, step int64 [], global number of the first row) -> sums
Objective = Callable[[Batch, tf.Tensor, tf.Tensor], Sums]
# (iterator, number of the step, steps left) -> steps done, sums, stops wanted
_Advance = Callable[
    [Any, tf.Tensor, tf.Tensor], tuple[tf.Tensor, Sums, tf.Tensor]
]


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step computes, and from which rows.

    Attributes:
      objective: the sums of a batch; `loss` and `weight` among them.
      sum_names: the names of those sums.
      variables: what is trained.
      optimizer: built for these variables; neither reduces nor clips.
      clip_norm: largest global norm of the mean gradient; 0 = any.
      rows_per_replica: b.
      accumulation_steps: micro-batches a replica cuts its batch into.
      jit: compile forward and backward with XLA.
      steps_per_program: with one replica and `jit`, so many whole steps, at
        most, are one XLA program.
    """

    objective: Objective
    sum_names: tuple[str, ...]
    variables: list[keras.Variable]
    optimizer: keras.optimizers.Optimizer
    clip_norm: float
    rows_per_replica: int
    accumulation_steps: int
    jit: bool
    steps_per_program: int = 1

    def create_forward_backward(self) -> Callable[..., tuple[list[Any], Sums]]:
        """(batch, step, first row) -> (summed gradients, sums)."""
        if self.jit:
            return tf.function(
                self.accumulate, jit_compile=True, autograph=False
            )
        return self.accumulate

    def accumulate(
        self, batch: Batch, step: tf.Tensor, first_row: tf.Tensor
    ) -> tuple[list[tf.Tensor], Sums]:
        """Gradients and sums of a replica's batch, added up over its parts."""
        parts = self.accumulation_steps
        size = self.rows_per_replica // parts
        if parts == 1:
            return self._micro(batch, step, first_row)
        cut = {
            key: tf.reshape(value, [parts, size, *value.shape[1:]])
            for key, value in batch.items()
        }

        def add(
            number: tf.Tensor, gradients: list[tf.Tensor], sums: Sums
        ) -> tuple[tf.Tensor, list[tf.Tensor], Sums]:
            more, more_sums = self._micro(
                {key: value[number] for key, value in cut.items()},
                step,
                first_row + tf.cast(number * size, tf.int64),
            )
            gradients = [a + b for a, b in zip(gradients, more, strict=True)]
            return number + 1, gradients, _added(sums, more_sums)

        zeros = [tf.zeros(v.shape, tf.float32) for v in self.variables]
        _, gradients, sums = tf.while_loop(
            lambda number, *_: number < parts,
            add,
            (tf.constant(0), zeros, self.zero_sums()),
            maximum_iterations=parts,
        )
        return gradients, sums

    def zero_sums(self) -> Sums:
        """Sums of no batch: zeros."""
        return {name: tf.zeros([]) for name in self.sum_names}

    @property
    def _scales_loss(self) -> bool:
        """Whether the loss is scaled, so that overflows skip the update."""
        return isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)

    def update(self, gradients: list[tf.Tensor], sums: Sums) -> Sums:
        """Applies gradients summed over everything; returns the sums.

        A gradient that is not finite ruins the weights even if its loss is
        finite. The returned loss is NaN then, so that the loop stops.
        """
        limit = self.clip_norm or None
        if limit and self._scales_loss:
            limit *= self.optimizer.dynamic_scale.value
        gradients, norm = optimizers.mean(gradients, sums["weight"], limit)
        self.optimizer.apply_gradients(
            zip(gradients, self.variables, strict=True)
        )
        if self._scales_loss:
            return sums
        loss = tf.where(tf.math.is_finite(norm), sums["loss"], math.nan)
        return {**sums, "loss": loss}

    def _micro(
        self, batch: Batch, step: tf.Tensor, first_row: tf.Tensor
    ) -> tuple[list[tf.Tensor], Sums]:
        values = [variable.value for variable in self.variables]
        with tf.GradientTape() as tape:
            # Tensors, where a `keras.StatelessScope` puts them in their place.
            tape.watch(values)
            sums = self.objective(batch, step, first_row)
            loss = sums["loss"]
            if self._scales_loss:
                loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
        # The tied table has a sparse and a dense part: one dense sum.
        return [tf.convert_to_tensor(g) for g in gradients], sums


def _added(sums: Sums, more: Sums) -> Sums:
    return {key: sums[key] + more[key] for key in sums}


def create_train_call(
    strategy: tf.distribute.Strategy, step: Step, stop: tf.Variable
) -> Callable[..., tuple[tf.Tensor, tf.Tensor, Sums]]:
    """A function that runs several steps without coming back to Python.

    Returns:
      (iterator, first step int64 [], number of steps int32 []) -> (steps
      done, workers that want to stop, sums over the steps done). It ends
      early, on all workers after the same step, when `stop` is above 0 on
      any of them. Where there are several workers, the sums have `waiting`
      too: seconds that this one spent in the all-reduce, most of them waiting
      for slower ones.

    Raises:
      ValueError: several steps a program, but several replicas or no XLA.
    """
    replicas = strategy.num_replicas_in_sync
    if step.steps_per_program > 1 and (replicas > 1 or not step.jit):
        found = f"there are {replicas} replicas" if step.jit else "XLA is off"
        raise ValueError(
            f"train.steps_per_program={step.steps_per_program} needs XLA and"
            f" one replica, but {found}. Leave it at 1, or use"
            " --strategy=one_device with --config.train.jit=on."
        )
    create = _by_program if step.steps_per_program > 1 else _by_step
    advance = create(strategy, step, stop)
    zero_sums = step.zero_sums()
    if strategies.has_workers(strategy):
        zero_sums["waiting"] = tf.zeros([])

    @tf.function(autograph=False)
    def call(
        iterator: Any, first_step: tf.Tensor, num_steps: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Sums]:
        def add(
            done: tf.Tensor, wants_stop: tf.Tensor, sums: Sums
        ) -> tuple[tf.Tensor, tf.Tensor, Sums]:
            number = first_step + tf.cast(done, tf.int64)
            steps, more, wants_stop = advance(
                iterator, number, num_steps - done
            )
            return done + steps, wants_stop, _added(sums, more)

        return tf.while_loop(
            lambda done, wants_stop, _: (done < num_steps) & (wants_stop == 0),
            add,
            (tf.constant(0), tf.constant(0.0), zero_sums),
        )

    return call


def _by_step(
    strategy: tf.distribute.Strategy, step: Step, stop: tf.Variable
) -> _Advance:
    """One step, on all replicas."""
    forward_backward = step.create_forward_backward()
    timed = strategies.has_workers(strategy)

    def replica_step(
        batch: Batch, number: tf.Tensor, wants_stop: tf.Tensor
    ) -> tuple[Sums, tf.Tensor]:
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
        first_row = replica * step.rows_per_replica
        gradients, sums = forward_backward(batch, number, first_row)
        names = sorted(sums)
        ready = _time_after([*gradients, sums["loss"]]) if timed else None
        values = [*gradients, *(sums[name] for name in names)]
        # The identity lies on the replica's device, as the rest does.
        values.append(tf.identity(wants_stop))
        reduced = context.all_reduce(tf.distribute.ReduceOp.SUM, values)
        sums = dict(zip(names, reduced[len(gradients) : -1], strict=True))
        sums = step.update(reduced[: len(gradients)], sums)
        if timed:
            waiting = _time_after(reduced) - ready
            sums["waiting"] = tf.cast(waiting, tf.float32)
        return sums, reduced[-1]

    def advance(
        iterator: Any, number: tf.Tensor, left: tf.Tensor
    ) -> tuple[tf.Tensor, Sums, tf.Tensor]:
        sums, wants_stop = _run(
            strategy, replica_step, next(iterator), number, stop.read_value()
        )
        return tf.constant(1), sums, wants_stop

    return advance


def _run(
    strategy: tf.distribute.Strategy, function: Callable[..., Any], *args: Any
) -> Any:
    """What a function returns that returns the same on all replicas."""
    return tf.nest.map_structure(
        lambda value: strategy.experimental_local_results(value)[0],
        strategy.run(function, args),
    )


def _by_program(
    strategy: tf.distribute.Strategy, step: Step, stop: tf.Variable
) -> _Advance:
    """Up to `steps_per_program` steps, on the only replica.

    They and their updates are one XLA program: a small model on a fast device
    waits for no launch in between.
    """

    @tf.function(jit_compile=True, autograph=False)
    def program(
        batches: Batch, first_step: tf.Tensor, num_steps: tf.Tensor
    ) -> Sums:
        def add(done: tf.Tensor, sums: Sums) -> tuple[tf.Tensor, Sums]:
            gradients, more = step.accumulate(
                {key: value[done] for key, value in batches.items()},
                first_step + tf.cast(done, tf.int64),
                tf.constant(0, tf.int64),
            )
            return done + 1, _added(sums, step.update(gradients, more))

        _, sums = tf.while_loop(
            lambda done, _: done < num_steps,
            add,
            (tf.constant(0), step.zero_sums()),
        )
        return sums

    def advance(
        iterator: Any, number: tf.Tensor, left: tf.Tensor
    ) -> tuple[tf.Tensor, Sums, tf.Tensor]:
        num_steps = tf.minimum(left, step.steps_per_program)
        batches = _stacked(iterator, num_steps, step.steps_per_program)
        return num_steps, program(batches, number, num_steps), stop.read_value()

    return advance


def _stacked(iterator: Any, number: tf.Tensor, capacity: int) -> Batch:
    """The next batches, [capacity, b, ...]; zeros behind `number` of them."""
    batches = tf.map_fn(
        lambda _: next(iterator),
        tf.range(number),
        fn_output_signature=iterator.element_spec,
        parallel_iterations=1,  # The batches come in their order.
    )

    def padded(x: tf.Tensor) -> tf.Tensor:
        paddings = [[0, capacity - number]] + [[0, 0]] * (x.shape.rank - 1)
        return tf.ensure_shape(tf.pad(x, paddings), [capacity, *x.shape[1:]])

    return {key: padded(value) for key, value in batches.items()}


def _time_after(values: list[tf.Tensor]) -> tf.Tensor:
    """When the values, the last of them a scalar, are there: float64 []."""
    with tf.control_dependencies(values):
        last = tf.identity(values[-1])
    # The host cannot look at it before a GPU has done all that came before.
    with tf.device("CPU:0"):
        return tf.cond(last > 0, tf.timestamp, tf.timestamp)


def create_evaluation_call(
    strategy: tf.distribute.Strategy,
    objective: Callable[[Batch], Sums],
    *,
    jit: bool,
) -> Callable[[Any], Sums]:
    """A function: iterator -> sums over one global batch."""
    compiled = objective
    if jit:
        compiled = tf.function(objective, jit_compile=True, autograph=False)

    def replica_sums(batch: Batch) -> Sums:
        sums = compiled(batch)
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, sums)

    @tf.function(autograph=False)
    def call(iterator: Any) -> Sums:
        return _run(strategy, replica_sums, next(iterator))

    return call
