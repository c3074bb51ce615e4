"""`--mode=finetune`: an encoder and labelled text to a classifier."""

import logging

import storage
from configs import schema
from input_pipeline import classification, manifest
from trainer import chain, checkpoint, modeling, ngrams
from trainer.run import Run
from trainer.stages import (
    budget,
    finetuning_task,
    seeds,
    self_training,
    stage,
    start,
)
from trainer.training import metrics, strategies

_log = logging.getLogger(__name__)
# Training accuracy that rises by more in a fifth of the steps, and is not yet
# that high, shows that there was more to learn.
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
            fit_ngrams(run)
        if not run.config.finetune.encoder:
            return
        initial = run.initial
        if run.has_begun("pretrain"):
            initial = modeling.initial_weights(run.workdir)
            initial.check_fits(run.config)
        if run.config.finetune.from_scratch:
            initial = None

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

        config = budget.decide(
            run,
            "finetune",
            lambda config: finetuning_task.create(
                config, run.strategy, rows, run.arithmetic
            )[-1],
            share=1
            / (
                run.config.finetune.num_seeds
                + run.config.finetune.self_training_rounds
            ),
        )
        stages = []
        for number in range(config.finetune.num_seeds):
            task = train(
                seeds.config_of(config, number), rows, seeds.stage_of(number)
            )
            stages.append(task.stage)
            if run.is_chief:
                _warn_if_undertrained(run.workdir, task)
        if len(stages) > 1:
            seeds.average(run, task, stages)
        if unlabelled:
            self_training.run(run, config, unlabelled, train)


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


def fit_ngrams(run: Run) -> None:
    """Fits the n-grams of the labelled rows, once, and says how good they are.

    Nothing is done if `finetune.ngrams` is False, or the workdir has the
    n-grams of these rows.
    """
    rows = run.labelled_rows
    wanted = chain.Artifact.of(
        "n-grams", run.config, {"labelled rows": rows.fingerprint}
    )
    before = ngrams.read_facts(run.workdir).get("artifact", {}).get("id")
    if not run.config.finetune.ngrams or before == wanted.id:
        return
    model, facts = ngrams.fit(
        classification.documents(rows, run.config, "train"),
        classification.documents(rows, run.config, "validation"),
        is_special=rows.tokenizer.is_special,
        num_classes=len(rows.labels),
    )
    model.save(run.workdir, {**facts, **wanted.to_dict()})
    _log.info(
        "n-grams alone: validation %.1f %% of %s documents after %.0f s; this"
        " is what there is to beat",
        100 * facts["accuracy"],
        f"{facts['validation_documents']:,}",
        facts["seconds"],
    )


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
