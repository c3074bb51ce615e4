"""`--mode=evaluate`: the exported model on the test split, raw strings in.

No other mode reads the test split, except that its labels are checked before
training.
"""

import dataclasses
import io
import json
import logging
import math
import pathlib
from typing import Any

import numpy as np

import storage
from input_pipeline import held_out, label_sets
from trainer import chain, checkpoint, ngrams, trained
from trainer.commands import export as export_command
from trainer.report import pictures, selective, statistics, summary
from trainer.run import Run
from trainer.serving import card, loading, mistakes
from trainer.stages import asking, pretraining_task

_log = logging.getLogger(__name__)
RESULT, PICTURE = "evaluation.json", "evaluation.png"
PREDICTIONS = "predictions.npz"
# Of `statistics.Results`.
_MEASURES = (
    *("loss", "accuracy", "micro_f1", "macro_f1"),
    *("balanced_accuracy", "overconfidence"),
)
_MOST_SHOWN = 20  # Pairs of confused classes.


def run(run: Run) -> None:
    """Writes evaluation.png, predictions.npz, model card, evaluation.json.

    The last of them says what the evaluation was made from, so that one that
    was killed before does not count.

    Raises:
      ValueError: the workdir holds a run of another config, there is nothing
        to evaluate, the export is damaged, or a test label is none of the
        classifier's.
    """
    workdir = run.workdir
    folder = storage.path_of(workdir)
    result: dict[str, Any] = {"masked_lm": _masked_lm(run)}
    if not run.is_chief:
        return  # A cluster shares only the masked-LM half.
    _require_same_text(run)
    export = folder / loading.DIRECTORY
    exported = run.open_export() if export.is_dir() else None
    if exported and "classify" in exported.signatures:
        trained.warn_if_older(workdir, exported.facts)
        result |= _classifier(run, folder, exported)
    elif result["masked_lm"]:
        _log.info("%s holds no classifier: the masked-LM half alone", export)
    else:
        raise ValueError(
            f"{workdir} has nothing to evaluate: no classifier in {export} and"
            " no pretraining checkpoint; run --mode=pretrain, or"
            " --mode=finetune and --mode=export."
        )
    shown = summary.evaluation_lines(result)
    tables = summary.tables(result)
    print(summary.table(shown, tables))
    if exported:
        result["checkpoints"] = exported.facts["checkpoints"]
        known = export_command.last_validation(workdir)
        card.rewrite_card(export, {**known, "test": shown}, tables)
    storage.write_json(folder / RESULT, {**result, **wanted(run).to_dict()})
    _log.info("written to %s", folder / RESULT)


def wanted(run: Run) -> chain.Artifact:
    """What an evaluation would be now."""
    made_from = {"test text": held_out.fingerprint(run.corpus)[:16]}
    export = storage.path_of(run.workdir) / loading.DIRECTORY
    if export.is_dir():
        facts = storage.read_manifest(export)
        made_from["export"] = chain.Artifact.read(facts, export).id
    return chain.Artifact.of("evaluation", run.config, made_from)


def is_done(run: Run) -> bool:
    """Whether the workdir has the evaluation that `run` would write."""
    folder = storage.path_of(run.workdir)
    result = read(run.workdir)
    files = (PREDICTIONS, PICTURE) if "classifier" in result else ()
    made = result.get("artifact", {}).get("id")
    return made == wanted(run).id and all(
        (folder / name).exists() for name in files
    )


def _masked_lm(run: Run) -> dict[str, Any]:
    """Means over the validation rows with frozen masks; {} = not pretrained."""
    if not run.has_begun("pretrain"):
        _log.info("no pretraining in %s: no masked-LM loss", run.workdir)
        return {}
    made_from = run.encoder_sources()
    run.require_same("encoder", "pretrain", made_from)
    chosen = checkpoint.of_stage(run.workdir, "pretrain").best()
    task = pretraining_task.create(
        run.config, run.strategy, run.rows, run.arithmetic, made_from=made_from
    )
    checkpoint.read_weights(chosen, task.model.variables)
    means = task.create_evaluate()()
    if not means:
        _log.info("no validation rows: no masked-LM loss")
        return {}
    return {
        **means,
        "checkpoint": chosen.name,
        "fingerprint": run.rows.fingerprint,
    }


def _require_same_text(run: Run) -> None:
    """Refuses a classifier of another text.

    A test split that is cut out of the text is that of the run only if the
    text is: documents of another one may have trained the classifier.
    """
    state = checkpoint.of_stage(run.workdir, "finetune").last_state()
    own_test = any(unit.split == "test" for unit in run.corpus.units)
    for kind, facts in (
        ("classifier", state),
        ("n-grams", ngrams.read_facts(run.workdir)),
    ):
        if facts:
            made = chain.Artifact.read(facts, run.workdir)
            made_from = dict(made.made_from)
            if not own_test:
                made_from["labelled rows"] = run.labelled_rows.fingerprint
            chain.require_same(
                made,
                chain.Artifact.of(kind, run.config, made_from),
                workdir=run.workdir,
                allow_changed=True,
            )


def _classifier(
    run: Run, folder: pathlib.Path, exported: loading.Exported
) -> dict[str, Any]:
    """The results of the classifier; no more than counts without documents."""
    names = exported.facts["labels"]
    multilabel = exported.facts.get("multilabel", False)
    answers = asking.ask(
        run, exported.signatures["classify"], names, multilabel
    )
    counts = answers.counts
    held_out.require_labels(run.config.data, counts)
    if counts.without_label:
        _log.info(
            "%s test documents without a label left out",
            f"{counts.without_label:,}",
        )
    if not counts.evaluated:
        _log.info("no labelled test document: the masked-LM half alone")
        return {"documents": dataclasses.asdict(counts)}
    labels, probabilities = answers.labels, answers.parts["both"]
    confidences = answers.confidences
    found = statistics.results(labels, probabilities, confidences)
    is_right = statistics.right_documents(labels, probabilities)
    curve = selective.curve(is_right, confidences)
    predictions = io.BytesIO()
    np.savez(
        predictions,
        labels=labels,
        probabilities=probabilities,
        digests=answers.digests,
        names=np.array(names),
    )
    (folder / PREDICTIONS).write_bytes(predictions.getvalue())
    (folder / PICTURE).write_bytes(pictures.evaluation_png(found, names, curve))
    result: dict[str, Any] = {
        "documents": dataclasses.asdict(counts),
        "labels": names,
        "multilabel": multilabel,
        "classifier": {
            name: dataclasses.asdict(getattr(found, name)) for name in _MEASURES
        }
        | {"confusion": found.confusion.tolist()},
        "classes": [
            {"label": names[c], **dataclasses.asdict(found.classes[c])}
            for c in found.by_harm
        ],
        "confused": [
            {"label": names[label], "answer": names[answer], "documents": n}
            for label, answer, n in found.confused(_MOST_SHOWN)
        ],
        "curve": [dataclasses.asdict(point) for point in curve],
    }
    if fitted := exported.facts.get("validation", {}).get("decisions"):
        result["decisions"] = _decisions(answers, fitted, names)
    if "n-grams" in answers.parts:
        result |= _of_parts(answers)
    if control := run.config.evaluation.control:
        result["gain_over_control"] = _gain_over_control(control, folder)
        result["control"] = control
    worst, sure = [*answers.worst], confidences
    if labels.ndim == 1:  # As the classes counted.
        sure = probabilities.max(axis=1)
    named, answered = (
        label_sets.named(of[worst], names)
        for of in (labels, statistics.answers(labels, probabilities))
    )
    return {
        **result,
        "strongest_ngrams": exported.facts.get("strongest_ngrams", {}),
        "most_wrong": mistakes.shown(
            answers.worst, named, answered, sure[worst], exported
        ),
        "seconds": round(answers.seconds, 3),
        "test_sha256": storage.sha256_json(
            [answers.digests.tolist(), labels.tolist()]
        ),
    }


def _of_parts(answers: asking.Answers) -> dict[str, Any]:
    """How often each part alone is right, and what both gain over n-grams."""
    labels, parts = answers.labels, answers.parts
    right = {
        name: statistics.right_documents(labels, rates)
        for name, rates in parts.items()
        if name != "both"
    }
    return {
        "parts": {
            name: dataclasses.asdict(statistics.wilson(int(of.sum()), len(of)))
            for name, of in right.items()
        },
        "gain_over_ngrams": _gain(labels, parts["both"], parts["n-grams"]),
    }


def _decisions(
    answers: asking.Answers, fitted: dict[str, Any], names: list[str]
) -> dict[str, Any]:
    """Precision and coverage, beside what they were on validation."""
    limits = [found["threshold"] for found in fitted["classes"]]
    documents, classes, is_right = selective.answered(
        answers.labels, answers.parts["both"]
    )
    return {
        "min_precision": fitted["min_precision"],
        **selective.decisions(
            is_right,
            classes,
            answers.is_decided[documents, classes],
            names=names,
            thresholds=[math.inf if t is None else t for t in limits],
        ),
        "on_validation": fitted,
    }


def require_control(control: str) -> None:
    """Refuses an `evaluation.control` that has not been evaluated."""
    if control and not (storage.path_of(control) / PREDICTIONS).exists():
        raise ValueError(
            f"evaluation.control={control} holds no {PREDICTIONS}; run"
            " --mode=evaluate with that workdir first."
        )


def _gain(
    labels: np.ndarray, probabilities: np.ndarray, control: np.ndarray
) -> dict[str, Any]:
    gains = statistics.paired_gain(labels, probabilities, control)
    return {name: dataclasses.asdict(gain) for name, gain in gains.items()}


def _gain_over_control(control: str, folder: pathlib.Path) -> dict[str, Any]:
    """The paired gain over the evaluated run in another workdir."""
    require_control(control)
    run, other = (
        dict(np.load(io.BytesIO((path / PREDICTIONS).read_bytes())))
        for path in (folder, storage.path_of(control))
    )
    for name in ("names", "digests", "labels"):
        if not np.array_equal(run[name], other[name]):
            raise ValueError(
                f"evaluation.control={control} was evaluated on other"
                f" documents (its {name} differ); compare runs with the same"
                " test split."
            )
    return _gain(run["labels"], run["probabilities"], other["probabilities"])


def read(workdir: str) -> dict[str, Any]:
    """What `run` wrote to evaluation.json; {} where it is not, or damaged."""
    path = storage.path_of(workdir) / RESULT
    if not path.exists():
        return {}
    try:
        result: dict[str, Any] = json.loads(path.read_bytes())
        if not isinstance(result, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        _log.warning("%s is damaged (%s) and does not count", path, error)
        return {}
    return result
