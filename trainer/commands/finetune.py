"""`--mode=finetune`: an encoder and labelled text to a classifier."""

import logging

import storage
from configs import schema
from input_pipeline import manifest
from trainer import checkpoint, modeling
from trainer.run import Run
from trainer.stages import (
    audit,
    budget,
    decisions,
    finetuning_task,
    ngram_fitting,
    seeds,
    self_training,
    stage,
    start,
)
from trainer.training import metrics, strategies

_log = logging.getLogger(__name__)
# There was more to learn if the training accuracy still rose by more than this
# in the last fifth of the steps, and stayed below that.
_RISING, _LEARNED = 0.02, 0.99


def run(run: Run) -> None:
    """Trains, or goes on where the workdir stopped, until all steps are done.

    It starts from its own newest checkpoint, else from the encoder that the
    run has pretrained, else from that of `init_from`; with
    `finetune.from_scratch` from an encoder without pretraining.

    Raises:
      ValueError: bad config, input or workdir, or no encoder to begin with;
        one line that says what to do.
      runtime.Stopped: a signal came; the run has been saved before.
    """
    check(run)
    with run.locked():
        made_from = dict[str, str]()
        if run.config.finetune.encoder:
            made_from = run.classifier_sources()
            require_same_classifier(run, made_from)
        rows, unlabelled = run.labelled_rows, run.unlabelled_rows
        decisions.check(run.config.finetune, rows)
        run.require_same_rows_on_workers(rows)
        run.record(
            precision=run.arithmetic.precision,
            jit=run.arithmetic.jit,
            labelled=str(rows.directory),
            vocabulary_size=rows.tokenizer.vocabulary_size,
            labels=[*rows.labels],
        )
        if run.is_chief:
            rows.tokenizer.save(storage.path_of(run.workdir))
            if not audit.is_done(run):
                audit.run(run)
            ngram_fitting.run(run)
        if not run.config.finetune.encoder:
            return
        initial = _initial(run)

        def train(
            config: schema.Config, rows: manifest.Prepared, name: str
        ) -> finetuning_task.FinetuningTask:
            """The stage of that name, its head alone first where configured."""
            tasks = finetuning_task.create(
                config,
                run.strategy,
                rows,
                run.arithmetic,
                name,
                made_from={**made_from, "labelled rows": rows.fingerprint},
            )
            task = tasks[-1]
            if initial:
                start.load(initial, task.model.encoder.variables)
            if checkpoint.of_stage(run.workdir, name).exist():
                tasks = tasks[-1:]  # The head has been trained alone before.
            for one in tasks:
                # For the summary; the step trains what it is given.
                task.model.encoder.trainable = one is task
                stage.train(one, run, run.callbacks)
            return task

        finetune = run.config.finetune
        config = budget.decide(
            run,
            "finetune",
            lambda config: finetuning_task.create(
                config, run.strategy, rows, run.arithmetic
            )[-1],
            share=1 / (finetune.num_seeds + finetune.self_training_rounds),
        )
        stages = []
        for number in range(finetune.num_seeds):
            own = seeds.config_of(config, number)
            task = train(own, rows, seeds.stage_of(number))
            stages.append(task.stage)
            if run.is_chief:
                _warn_if_undertrained(run.workdir, task)
        if len(stages) > 1:
            seeds.average(run, task, stages)
        if unlabelled:
            self_training.run(run, config, unlabelled, train)


def _initial(run: Run) -> modeling.Initial | None:
    """The encoder to begin with; None = one without pretraining."""
    if run.config.finetune.from_scratch:
        return None
    if not run.has_begun("pretrain"):
        return run.initial
    initial = modeling.initial_weights(run.workdir)
    initial.check_fits(run.config)
    return initial


def check(run: Run) -> None:
    """Refuses what cannot be fine-tuned; raises ValueError."""
    config = run.config
    if config.model.attend_padding and config.finetune.packing == "fill":
        raise ValueError(
            "model.attend_padding=True lets documents of one row see each"
            " other, which no exported model could repeat; set"
            " finetune.packing=document."
        )
    strategies.check_batch(
        run.strategy,
        finetuning_task.training_section(config),
        section="finetune",
    )


def require_same_classifier(run: Run, made_from: dict[str, str]) -> None:
    """Refuses to go on with a classifier that was made from something else."""
    for name in ("finetune_frozen", "finetune"):
        run.require_same("classifier", name, made_from)


def _warn_if_undertrained(
    workdir: str, task: finetuning_task.FinetuningTask
) -> None:
    """Says so if the last step came too early to have learned everything."""
    last_step = checkpoint.of_stage(workdir, task.stage).last_step()
    if last_step < task.plan.num_steps:
        return  # More steps did not help: `finetune.patience`.
    before, last = metrics.last_fifths(metrics.read(workdir, task.stage))
    if last > before + _RISING and last < _LEARNED:
        _log.warning(
            "WARNING: fine-tuning ended while the training accuracy was still"
            " rising (%.1f %% -> %.1f %%): raise finetune.num_epochs",
            100 * before,
            100 * last,
        )
