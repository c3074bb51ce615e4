"""`--mode=all`: every stage in turn, skipping what is done."""

import json
import logging
from collections.abc import Sequence
from typing import Any

import storage
from configs import schema
from configs.runtime import Runtime
from input_pipeline import held_out, labelled, manifest, strings
from trainer import checkpoint
from trainer import workdir as workdir_lib
from trainer.commands import (
    budget,
    evaluate,
    export,
    finetune,
    predict,
    prepare,
    pretrain,
    report,
    self_training,
    stage,
)
from trainer.serving import best, loading
from trainer.training import loop
from trainer.training import strategy as strategy_lib

_log = logging.getLogger(__name__)
_MOST_CLASSES = 5  # Shown of an answer.


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: Runtime,
    callbacks: Sequence[Any] = (),
) -> None:
    """Prepares what is missing, pretrains, fine-tunes, exports, evaluates.

    What is wrong with the labels is said before anything is trained. Text
    without any is not fine-tuned, and a line says so. Ends with a few
    predictions, `report.html` and a table.
    """
    arguments: dict[str, Any] = {"workdir": workdir, "runtime": runtime}
    strategy, chief = stage.create_strategy(runtime, config)
    workdir_lib.check(workdir, config)
    strategy_lib.check_batch(strategy, config.train)
    _require_own_encoder(workdir)
    if labelled_rows := _labelled(config):
        finetune.check(config, strategy)
        self_training.unlabelled(config, labelled_rows)
        evaluate.check_test(config, labelled_rows.labels)
        _require_finished(budget.decided(config, workdir), workdir)
        if chief:
            with workdir_lib.locked(workdir):
                finetune.fit_ngrams(config, workdir, labelled_rows)
    if config.finetune.encoder or not labelled_rows:
        pretrain.run(config, callbacks=callbacks, **arguments)
    if labelled_rows:
        finetune.run(config, callbacks=callbacks, **arguments)
    states = best.states(workdir)
    if chief and _exported(workdir) != (states, config.to_dict()["export"]):
        export.run(config, **arguments)
    evaluated = evaluate.read(workdir)
    if (
        evaluated.get("checkpoints") != states
        or evaluated.get("control", "") != config.evaluation.control
        or evaluated.get("test_source") != held_out.fingerprint(config.data)
    ):
        evaluate.run(config, **arguments)
    if chief:
        _predict(workdir)
        print(report.write(config, workdir=workdir))


def _require_own_encoder(workdir: str) -> None:
    """An encoder that the classifier does not have is not trained beside it."""
    pretrained = checkpoint.of_stage(workdir, "pretrain").exist()
    if finetune.has_begun(workdir) and not pretrained:
        raise ValueError(
            f"{workdir} holds a classifier without pretraining of its own, so"
            " that --mode=all would pretrain an encoder which is not in it. Go"
            " on with --mode=finetune, --mode=export and --mode=evaluate, or"
            " choose another --workdir."
        )


def _require_finished(config: schema.Config, workdir: str) -> None:
    """More pretraining would leave the classifier with another encoder."""
    if not finetune.has_begun(workdir):
        return
    prepared = prepare.open_prepared(config)
    num_rows = prepared.roles["train"].num_rows
    plan = loop.Plan.of(config.train, config, num_rows)
    done = checkpoint.of_stage(workdir, "pretrain").last_step()
    if done < plan.num_steps:
        raise ValueError(
            f"{workdir} holds a classifier made from its pretraining, which has"
            f" {done} steps and would go on to {plan.num_steps}. To keep both"
            " as they are, leave train.num_steps and num_epochs as they were."
            " To go on and fine-tune anew, use another --workdir with"
            f" --config.init_from={workdir}."
        )


def _labelled(config: schema.Config) -> manifest.Prepared | None:
    """The labelled rows, prepared where they are missing; None = no labels."""
    try:
        directory = finetune.prepare_labelled(config)
    except labelled.NoLabelsError as error:
        _log.info("no fine-tuning: %s", error)
        return None
    return manifest.open_prepared(directory)


def _exported(workdir: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """States of the checkpoints in `export/` and its section; {} = no good."""
    try:
        facts = storage.verify(storage.path_of(workdir) / loading.DIRECTORY)
    except storage.DamagedError:
        return {}, {}
    section = facts.get("config", {}).get("export", {})
    return facts.get("checkpoints", {}), section


def _predict(workdir: str) -> None:
    """Prints what the export says to the sentences of the pretraining.

    First what it fills in, then the classes of the completed sentences.
    """
    exported = loading.load(storage.path_of(workdir) / loading.DIRECTORY)
    if "fill_mask" not in exported.signatures:
        return
    texts = workdir_lib.read(workdir)["resolved"]["sentences"]
    answers = _ask(exported, texts)
    if "classify" in exported.signatures:
        _ask(exported, list(map(_completed, texts, answers)))


def _ask(exported: loading.Exported, texts: list[str]) -> list[dict[str, Any]]:
    answers = predict.answers(exported, [text.encode() for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        shown = {"text": text, **answer}
        if rates := answer.get("probabilities"):
            best = sorted(rates, key=rates.__getitem__, reverse=True)
            shown["probabilities"] = {k: rates[k] for k in best[:_MOST_CLASSES]}
        print(json.dumps(shown, ensure_ascii=False))
    return answers


def _completed(text: str, answer: dict[str, Any]) -> str:
    """The text with the best token in place of each mask."""
    for likeliest, *_ in answer.get("masks", []):
        text = text.replace(strings.MASK, likeliest["token"], 1)
    return text
