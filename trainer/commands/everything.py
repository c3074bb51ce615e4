"""`--mode=all`: every stage in turn, skipping what is done."""

import json
import logging
from typing import Any

from input_pipeline import held_out, preparation, strings
from trainer import checkpoint
from trainer.commands import (
    evaluate,
    export,
    finetune,
    predict,
    pretrain,
    report,
)
from trainer.run import Run
from trainer.serving import loading
from trainer.stages import audit, budget, decisions, ngram_fitting
from trainer.training import loop, strategies

_log = logging.getLogger(__name__)
_MOST_CLASSES = 5  # Shown of an answer.


def run(run: Run) -> None:
    """Prepares what is missing, pretrains, fine-tunes, exports, evaluates.

    Faults in the labels are reported before anything is trained. Text without
    labels is not fine-tuned, and a line says so. Ends with a few predictions,
    `report.html` and a table.
    """
    strategies.check_batch(run.strategy, run.config.train)
    with run.locked():
        evaluate.require_control(run.config.evaluation.control)
        _require_same_classifier(run)
        try:
            rows = run.labelled_rows
        except preparation.NoLabelsError as error:
            rows = None
            _log.info("no fine-tuning: %s", error)
        if rows:
            finetune.check(run)
            decisions.check(run.config.finetune, rows)
            _ = run.unlabelled_rows  # Missing ones are refused here.
            held_out.check(run.corpus, rows.labels)
            if run.is_chief:
                audit.run(run)
                ngram_fitting.run(run)
        if run.config.finetune.encoder or not rows:
            pretrain.run(run)
        if rows:
            finetune.run(run)
        if run.is_chief and not export.is_done(run):
            export.run(run)
        if not evaluate.is_done(run):
            evaluate.run(run)
        if run.is_chief:
            _predict(run)
            report.run(run)


def _require_same_classifier(run: Run) -> None:
    """Refuses to train an encoder that an existing classifier would not have.

    A classifier is not trained again when its encoder changes: after more
    pretraining, the two would no longer belong together.
    """
    workdir = run.workdir
    if not (run.config.finetune.encoder and run.has_begun("finetune")):
        return
    if not run.has_begun("pretrain"):
        raise ValueError(
            f"{workdir} holds a classifier without pretraining of its own, so"
            " that --mode=all would pretrain an encoder which is not in it. Go"
            " on with --mode=finetune, --mode=export and --mode=evaluate, or"
            " choose another --workdir."
        )
    config = budget.decided(run)
    plan = loop.Plan.of(config.train, config, run.rows.roles["train"].num_rows)
    done = checkpoint.of_stage(workdir, "pretrain").last_step()
    if done < plan.num_steps:
        raise ValueError(
            f"{workdir} holds a classifier made from its pretraining, which has"
            f" {done} steps and would go on to {plan.num_steps}. To keep both"
            " as they are, leave train.num_steps and num_epochs as they were."
            " To go on and fine-tune anew, use another --workdir with"
            f" --config.init_from={workdir}."
        )
    finetune.require_same_classifier(run, run.classifier_sources())


def _predict(run: Run) -> None:
    """Prints what the export says to the sentences of the pretraining.

    First what it fills in, then the classes of the completed sentences.
    """
    exported = run.open_export()
    if "fill_mask" not in exported.signatures:
        return
    completed = []
    for text, answer in _ask(exported, run.resolved["sentences"]):
        for likeliest, *_ in answer.get("masks", []):
            text = text.replace(strings.MASK, likeliest["token"], 1)
        completed.append(text)
    if "classify" in exported.signatures:
        _ask(exported, completed)


def _ask(
    exported: loading.Exported, texts: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Prints the answers and returns each text with its answer."""
    answers = predict.answers(exported, [text.encode() for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        shown = {"text": text, **answer}
        if rates := answer.get("probabilities"):
            best = sorted(rates, key=rates.__getitem__, reverse=True)
            shown["probabilities"] = {k: rates[k] for k in best[:_MOST_CLASSES]}
        print(json.dumps(shown, ensure_ascii=False))
    return [*zip(texts, answers, strict=True)]
