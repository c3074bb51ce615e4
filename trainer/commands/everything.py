"""`--mode=all`: every stage in turn, skipping what is done."""

import json
import logging
from collections.abc import Sequence
from typing import Any

from configs import schema
from configs.runtime import Runtime
from input_pipeline import labelled
from trainer import storage, strings
from trainer.commands import (
    evaluate,
    export,
    finetune,
    predict,
    pretrain,
    report,
    stage,
)
from trainer.serving import loading

_log = logging.getLogger(__name__)


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: Runtime,
    callbacks: Sequence[Any] = (),
) -> None:
    """Prepares what is missing, pretrains, fine-tunes, exports, evaluates.

    Text without labels is not fine-tuned, and a line says so. Ends with a few
    predictions, `report.html` and a table.
    """
    arguments: dict[str, Any] = {"workdir": workdir, "runtime": runtime}
    pretrain.run(config, callbacks=callbacks, **arguments)
    try:
        finetune.run(config, callbacks=callbacks, **arguments)
    except labelled.NoLabelsError as error:
        _log.info("no fine-tuning: %s", error)
    # The same that the stages had.
    _, chief = stage.create_strategy(runtime, config)
    best = export.best_states(workdir)
    if chief and _exported(workdir) != (best, config.to_dict()["export"]):
        export.run(config, **arguments)
    evaluated = evaluate.read(workdir)
    if (evaluated.get("checkpoints"), evaluated.get("control", "")) != (
        best,
        config.evaluation.control,
    ):
        evaluate.run(config, **arguments)
    if chief:
        _predict(config, workdir)
        print(report.write(config, workdir=workdir))


def _exported(workdir: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """States of the checkpoints in `export/` and its section; {} = no good."""
    try:
        facts = storage.verify(storage.path_of(workdir) / loading.DIRECTORY)
    except storage.DamagedError:
        return {}, {}
    section = facts.get("config", {}).get("export", {})
    return facts.get("checkpoints", {}), section


def _predict(config: schema.Config, workdir: str) -> None:
    """Prints what the export says to the configured sentences.

    First what it fills in, then the classes of the completed sentences.
    """
    exported = loading.load(storage.path_of(workdir) / loading.DIRECTORY)
    texts = list(config.evaluation.sentences)
    answers = _ask(exported, texts)
    if "classify" in exported.signatures:
        _ask(exported, list(map(_completed, texts, answers)))


def _ask(exported: loading.Exported, texts: list[str]) -> list[dict[str, Any]]:
    answers = predict.answers(exported, [text.encode() for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        print(json.dumps({"text": text, **answer}, ensure_ascii=False))
    return answers


def _completed(text: str, answer: dict[str, Any]) -> str:
    """The text with the best token in place of each mask."""
    for best, *_ in answer.get("masks", []):
        text = text.replace(strings.MASK, best["token"], 1)
    return text
