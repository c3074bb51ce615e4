"""`--mode=pretrain`: rows to an encoder, by filling in masked tokens."""

import functools

import storage
from configs import schema
from input_pipeline import pretraining
from trainer.run import Run
from trainer.stages import (
    budget,
    fill_ins,
    pretraining_task,
    prompts,
    stage,
    start,
)
from trainer.training import metrics, strategies


def run(run: Run) -> None:
    """Trains, or goes on where the workdir stopped, until all steps are done.

    It starts from its own newest checkpoint, else from the weights of
    `init_from`, else from scratch.

    Raises:
      ValueError: bad config, input or workdir; one line that says what to do.
      runtime.Stopped: a signal came; the run has been saved before.
    """
    strategies.check_batch(run.strategy, run.config.train)
    with run.locked():
        made_from = run.encoder_sources()
        run.require_same("encoder", "pretrain", made_from)
        run.require_same_rows_on_workers(run.rows)
        sentences = prompts.choose(run.config.evaluation, run.rows)
        run.record(
            precision=run.arithmetic.precision,
            jit=run.arithmetic.jit,
            prepared=str(run.rows.directory),
            vocabulary_size=run.rows.tokenizer.vocabulary_size,
            sentences=[*sentences],
        )
        if run.is_chief:
            # Whoever starts from this run needs it, wherever its data went.
            run.rows.tokenizer.save(storage.path_of(run.workdir))
        frequencies = None
        if run.config.model.tie_embeddings and not run.initial:
            frequencies = pretraining.log_frequencies(run.rows)

        def create(config: schema.Config) -> pretraining_task.PretrainingTask:
            return pretraining_task.create(
                config,
                run.strategy,
                run.rows,
                run.arithmetic,
                made_from=made_from,
                frequencies=frequencies,
            )

        task = create(budget.decide(run, "pretrain", create))
        if run.initial and not run.has_begun("pretrain"):
            start.load(run.initial, task.model.variables)
        shown = fill_ins.FillIns(
            sentences,
            run.rows.tokenizer,
            top_k=run.config.evaluation.top_k,
            record=functools.partial(metrics.append, run.workdir, task.stage),
        )
        stage.train(
            task,
            run,
            [*([shown] * run.is_chief), *run.callbacks],
            hint=f"encoder: trainer.modeling.load_encoder({run.workdir!r})",
        )
