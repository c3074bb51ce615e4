"""`--mode=pretrain`: rows to an encoder, by filling in masked tokens."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from configs import schema
from configs.runtime import Runtime
from input_pipeline import manifest, pretraining, stream
from trainer import modeling
from trainer import workdir as workdir_lib
from trainer.commands import fill_ins, prepare
from trainer.report import progress
from trainer.training import (
    checkpoint,
    loop,
    metrics,
    objective,
    optimizers,
    signals,
)
from trainer.training import step as step_lib
from trainer.training import strategy as strategy_lib

_log = logging.getLogger(__name__)
STAGE = "pretrain"


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: Runtime,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains, or goes on where the workdir stopped, until all steps are done.

    Starting order: the newest good checkpoint of the workdir, else scratch.

    Args:
      config: what to train.
      workdir: where everything of this run lies.
      runtime: on which devices.
      callbacks: Keras callbacks, driven as `fit` would.

    Raises:
      ValueError: bad config, input or workdir; one line that says what to do.
      runtime.Stopped: a signal came; the run has been saved before.
    """
    strategy = strategy_lib.create(
        runtime.strategy, num_virtual_devices=runtime.num_virtual_devices
    )
    chief = strategy_lib.is_chief(strategy)
    if not chief:
        logging.getLogger("trainer").setLevel(logging.WARNING)
    with workdir_lib.locked(workdir, chief=chief):
        recorded = workdir_lib.check(workdir, config)
        strategy_lib.check_batch(strategy, config.train)
        prepared = prepare.open_prepared(config)
        arithmetic = _arithmetic(strategy, config, recorded)
        if chief:
            workdir_lib.record(
                workdir, config, _resolved(prepared, arithmetic)
            )
        trainee = create(config, strategy, prepared, arithmetic)
        try:
            with signals.StopSignal() as stop:
                _train(trainee, workdir, stop, callbacks, chief=chief)
        except tf.errors.DataLossError:
            manifest.open_prepared(prepared.directory)  # Names the file.
            raise
        except tf.errors.ResourceExhaustedError as error:
            raise ValueError(
                "Out of memory. Raise train.accumulation_steps, lower"
                " train.global_batch_size, or lower data.sequence_length:"
                f" {str(error).splitlines()[0]}"
            ) from error
    if chief:
        _log.info(
            "done: %s holds checkpoints/%s, metrics.jsonl and tensorboard."
            " Next: `tensorboard --logdir %s`; in Python,"
            " `trainer.modeling.load_encoder(%r)`; a larger"
            " --config.train.num_steps extends this run.",
            workdir,
            STAGE,
            workdir,
            workdir,
        )


@dataclasses.dataclass(frozen=True)
class Trainee:
    """A model, what it learns from, and where."""

    config: schema.Config
    strategy: tf.distribute.Strategy
    prepared: manifest.Prepared
    arithmetic: strategy_lib.Arithmetic
    plan: loop.Plan
    model: modeling.MaskedLM
    optimizer: keras.optimizers.Optimizer

    def create_train_call(self, stop: tf.Variable) -> Callable[..., Any]:
        """From `step.create_train_call`, with the masked-LM objective."""
        step = step_lib.Step(
            objective=self._objective,
            sum_names=objective.MASKED_LM_SUMS,
            variables=self.model.trainable_variables,
            optimizer=self.optimizer,
            rows_per_replica=strategy_lib.check_batch(
                self.strategy, self.config.train
            ),
            accumulation_steps=self.config.train.accumulation_steps,
            jit=self.arithmetic.jit,
        )
        return step_lib.create_train_call(self.strategy, step, stop)

    def create_evaluate(self) -> Callable[[], dict[str, float]]:
        """() -> means over the validation rows; {} where there are none."""
        num_rows = self.prepared.roles["validation"].num_rows
        if not num_rows:
            return dict
        mask_id = self.prepared.tokenizer.special.mask
        call = step_lib.create_evaluation_call(
            self.strategy,
            lambda batch: objective.masked_lm_by_kind(
                self.model(batch), batch, mask_id=mask_id
            ),
            jit=self.arithmetic.jit,
        )
        batches = self._distribute(pretraining.validation_batches)
        size = self.config.train.global_batch_size
        return lambda: loop.evaluate(call, batches, -(-num_rows // size))

    def batches(self, first_step: int) -> Any:
        """Distributed training batches from a step on."""
        return self._distribute(
            functools.partial(
                pretraining.training_batches, first_step=first_step
            )
        )

    def _distribute(self, create_batches: Callable[..., Any]) -> Any:
        return strategy_lib.distribute(
            self.strategy,
            lambda index, count, num_replicas: create_batches(
                self.prepared,
                self.config,
                shard=stream.Shard(index, count),
                num_replicas=num_replicas,
            ),
        )

    def _objective(
        self, batch: step_lib.Batch, step: tf.Tensor, first_row: tf.Tensor
    ) -> objective.Sums:
        noise = modeling.create_noise(
            self.config.seed, step=step, first_row=first_row
        )
        return objective.masked_lm(self.model(batch, noise=noise), batch)


def create(
    config: schema.Config,
    strategy: tf.distribute.Strategy,
    prepared: manifest.Prepared,
    arithmetic: strategy_lib.Arithmetic,
) -> Trainee:
    """The model and its optimizer, with variables in the strategy's scope."""
    plan = create_plan(config, prepared)
    with strategy.scope():
        model = modeling.create_masked_lm(
            config.model,
            vocabulary_size=prepared.tokenizer.vocabulary_size,
            sequence_length=prepared.sequence_length,
            seed=config.seed,
            dtype=arithmetic.policy,
        )
        optimizer = optimizers.create(
            config.optimizer,
            model.trainable_variables,
            num_steps=plan.num_steps,
            precision=arithmetic.precision,
        )
    # Keras callbacks look for both on the model.
    model.optimizer = optimizer
    model.stop_training = False
    return Trainee(
        config, strategy, prepared, arithmetic, plan, model, optimizer
    )


def create_plan(
    config: schema.Config, prepared: manifest.Prepared
) -> loop.Plan:
    """How many steps, and at which of them something happens."""
    train = config.train
    num_rows = prepared.roles["train"].num_rows
    per_epoch = train.steps_per_epoch or -(-num_rows // train.global_batch_size)
    return loop.Plan(
        num_steps=train.num_steps or train.num_epochs * per_epoch,
        steps_per_epoch=per_epoch,
        steps_per_call=train.steps_per_call,
        log_every=train.log_every,
        evaluate_every=config.evaluation.every_steps,
        checkpoint_every=config.checkpoint.every_steps,
    )


def _arithmetic(
    strategy: tf.distribute.Strategy,
    config: schema.Config,
    recorded: dict[str, Any],
) -> strategy_lib.Arithmetic:
    """As resolved now; where `auto` was resolved before, as it was then."""
    train = config.train
    if recorded:
        train = dataclasses.replace(
            train,
            precision=train.precision
            if train.precision != "auto"
            else recorded["resolved"]["precision"],
        )
    return strategy_lib.resolve(strategy, train)


def _resolved(
    prepared: manifest.Prepared, arithmetic: strategy_lib.Arithmetic
) -> dict[str, Any]:
    return {
        "precision": arithmetic.precision,
        "jit": arithmetic.jit,
        "prepared": str(prepared.directory),
        "fingerprint": prepared.fingerprint,
        "vocabulary_size": prepared.tokenizer.vocabulary_size,
    }


def _train(
    trainee: Trainee,
    workdir: str,
    stop: signals.StopSignal,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    chief: bool,
) -> None:
    config, plan, model = trainee.config, trainee.plan, trainee.model
    checkpoints = checkpoint.Checkpoints(
        pathlib.Path(workdir) / "checkpoints" / STAGE,
        keep_last=config.checkpoint.keep_last,
    )
    state = checkpoints.restore(
        weights=model.variables, optimizer=trainee.optimizer.variables
    )
    first_step = _first_step(state, trainee)
    _announce(trainee, first_step)
    if first_step >= plan.num_steps:
        _log.info("all %d steps are done already", plan.num_steps)
        return

    def save(step: int, validation_loss: float | None) -> None:
        if chief:
            checkpoints.save(
                _state(trainee, step, validation_loss),
                weights=model.variables,
                optimizer=trainee.optimizer.variables,
            )

    shown = [
        progress.Progress(plan.num_steps),
        fill_ins.FillIns(config.evaluation, trainee.prepared.tokenizer),
    ]
    with metrics.MetricsLog(
        workdir, stage=STAGE, first_step=first_step, enabled=chief
    ) as metrics_log:
        loop.Loop(
            plan=plan,
            train_call=trainee.create_train_call(stop.flag),
            evaluate=trainee.create_evaluate(),
            save=save,
            learning_rate=functools.partial(_learning_rate, trainee),
            metrics=metrics_log,
            callbacks=keras.callbacks.CallbackList(
                [*(shown if chief else []), *callbacks],
                model=model,
                epochs=-(-plan.num_steps // plan.steps_per_epoch),
                steps=plan.steps_per_epoch,
                verbose=0,
            ),
            stop=stop,
        ).run(iter(trainee.batches(first_step)), first_step=first_step)


def _first_step(state: dict[str, Any], trainee: Trainee) -> int:
    """Where to go on; refuses a checkpoint of other data."""
    if state and state["fingerprint"] != trainee.prepared.fingerprint:
        raise ValueError(
            f"The checkpoint was trained on data {state['fingerprint']}, but"
            f" the source now gives {trainee.prepared.fingerprint}: the text"
            " has changed. Restore it, or choose another --workdir."
        )
    return int(state.get("step", 0))


def _state(
    trainee: Trainee, step: int, validation_loss: float | None
) -> dict[str, Any]:
    state = {
        "step": step,
        "seed": trainee.config.seed,
        "global_batch_size": trainee.config.train.global_batch_size,
        "precision": trainee.arithmetic.precision,
        "jit": trainee.arithmetic.jit,
        "fingerprint": trainee.prepared.fingerprint,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    if validation_loss is not None:
        state["validation_loss"] = validation_loss
    return state


def _learning_rate(trainee: Trainee, step: int) -> float:
    schedule = optimizers.Schedule(
        trainee.config.optimizer, trainee.plan.num_steps
    )
    return float(schedule(tf.constant(step)))


def _announce(trainee: Trainee, first_step: int) -> None:
    config, plan, strategy = trainee.config, trainee.plan, trainee.strategy
    trainee.model.summary(print_fn=_log.info, line_length=80)
    replicas = strategy.num_replicas_in_sync
    micro = config.train.accumulation_steps
    _log.info("%s", strategy_lib.describe(strategy))
    _log.info(
        "precision %s, XLA %s, %s parameters",
        trainee.arithmetic.precision,
        "on" if trainee.arithmetic.jit else "off",
        f"{trainee.model.count_params():,}",
    )
    _log.info(
        "batch %d rows = %d replica(s) x %d micro-batch(es) x %d; %s steps in"
        " epochs of %s",
        config.train.global_batch_size,
        replicas,
        micro,
        config.train.global_batch_size // replicas // micro,
        f"{plan.num_steps:,}",
        f"{plan.steps_per_epoch:,}",
    )
    if first_step:
        _log.info("resuming from step %d", first_step)
