"""`--mode=evaluate`: the exported model on the test split, raw strings in.

Nothing else reads the test split, but that its labels are looked at before
training.
"""

import dataclasses
import io
import itertools
import json
import logging
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import storage
from input_pipeline import held_out
from trainer import chain, checkpoint, ngrams, trained
from trainer.commands import export as export_command
from trainer.report import pictures, statistics, summary
from trainer.run import Run
from trainer.serving import card, loading
from trainer.stages import pretraining_task

_log = logging.getLogger(__name__)
RESULT, PICTURE = "evaluation.json", "evaluation.png"
PREDICTIONS = "predictions.npz"
# What answers alone -> its output of `classify`.
_OUTPUTS = {
    "both": "probabilities",
    "encoder": "encoder_probabilities",
    "n-grams": "ngram_probabilities",
}
_NUM_WORST = 20
_EXCERPT = 400  # Characters.
_SORTED_BATCHES = 16  # Among these many batches texts are sorted by length.


@dataclasses.dataclass(frozen=True)
class _Answers:
    """What a classifier says to N test documents, in their order.

    Attributes:
      labels: int64 [N].
      probabilities: float32 [N, C].
      parts: by name what each part says alone, float32 [N, C].
      digests: uint64 [N], of the clean texts.
      excerpts: the beginnings of the texts.
      seconds: spent by the model.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    parts: dict[str, np.ndarray]
    digests: np.ndarray
    excerpts: list[str]
    seconds: float


def run(run: Run) -> None:
    """Writes evaluation.png, predictions.npz, model card, evaluation.json.

    The last of them says what the evaluation was made from, so that an
    evaluation that was killed before is none.

    Raises:
      ValueError: the workdir holds a run of another config, there is nothing
        to evaluate, the export is damaged, or a test label is none of the
        classifier's.
    """
    workdir = run.workdir
    folder = storage.path_of(workdir)
    result: dict[str, Any] = {"masked_lm": _masked_lm(run)}
    if not run.is_chief:
        return  # All of a cluster share the masked-LM half alone.
    _require_same_text(run)
    export = folder / loading.DIRECTORY
    if classifier := _load(run, export):
        trained.warn_if_older(workdir, classifier.facts)
        result |= _classifier(run, folder, classifier)
    if not (classifier or result["masked_lm"]):
        raise ValueError(
            f"{workdir} has nothing to evaluate: no classifier in {export} and"
            " no pretraining checkpoint; run --mode=pretrain, or"
            " --mode=finetune and --mode=export."
        )
    if export.is_dir():
        result["checkpoints"] = storage.read_manifest(export)["checkpoints"]
    print(summary.table(shown(result)))
    if export.is_dir():
        known = export_command.last_validation(workdir)
        card.rewrite_card(export, {**known, "test": shown(result)})
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


def shown(result: dict[str, Any]) -> dict[str, str]:
    """What a person reads of `evaluation.json`: a name and a value a line."""
    lines = {
        f"masked-LM validation {name}": f"{result['masked_lm'][name]:.4g}"
        for name in ("loss", "perplexity", "accuracy")
        if result["masked_lm"]
    }
    return lines | summary.evaluation_lines(result)


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


def _load(run: Run, export: pathlib.Path) -> loading.Exported | None:
    """The export, if it classifies."""
    if not export.is_dir():
        _log.info("no %s: the masked-LM half alone", export)
        return None
    exported = run.open_export()
    if "classify" in exported.signatures:
        return exported
    _log.info("%s classifies nothing: the masked-LM half alone", export)
    return None


def _classifier(
    run: Run, folder: pathlib.Path, exported: loading.Exported
) -> dict[str, Any]:
    """The results of the classifier; {} where no test document has a label."""
    counts = held_out.Counts()
    names = exported.facts["labels"]
    answers = _ask(run, exported.signatures["classify"], names, counts)
    held_out.require_labels(run.config.data, counts)
    if counts.without_label:
        _log.info(
            "%s test documents without a label left out",
            f"{counts.without_label:,}",
        )
    if not counts.evaluated:
        _log.info("no labelled test document: the masked-LM half alone")
        return {"documents": dataclasses.asdict(counts)}
    found = statistics.results(answers.labels, answers.probabilities)
    predictions = io.BytesIO()
    np.savez(
        predictions,
        labels=answers.labels,
        probabilities=answers.probabilities,
        digests=answers.digests,
        names=np.array(names),
    )
    (folder / PREDICTIONS).write_bytes(predictions.getvalue())
    (folder / PICTURE).write_bytes(pictures.evaluation_png(found, names))
    return {
        "documents": dataclasses.asdict(counts),
        "labels": names,
        "classifier": {
            "f1_of": statistics.label_of_f1(names),
            **{
                name: getattr(found, name).to_dict()
                for name in ("loss", "accuracy", "f1", "overconfidence")
            },
            "confusion": found.confusion.tolist(),
        },
        **_parts(answers),
        **_gain(run.config.evaluation.control, folder),
        "most_wrong": _most_wrong(answers, names),
        "seconds": round(answers.seconds, 3),
        "test_sha256": storage.sha256_json(
            [answers.digests.tolist(), answers.labels.tolist()]
        ),
    }


def _ask(
    run: Run,
    classify: Callable[..., dict[str, tf.Tensor]],
    names: list[str],
    counts: held_out.Counts,
) -> _Answers:
    number_of = {name: number for number, name in enumerate(names)}
    size = run.config.predict.batch_size
    labels, digests, excerpts = [], [], []
    windows: list[dict[str, np.ndarray]] = []
    seconds = 0.0
    examples = held_out.known(held_out.examples(run.corpus, counts), names)
    while window := list(itertools.islice(examples, size * _SORTED_BATCHES)):
        for example in window:
            labels.append(number_of[example.label])
            digests.append(int.from_bytes(example.digest))
            excerpts.append(_excerpt(example.raw))
        start = time.perf_counter()
        windows.append(_probabilities(classify, [e.raw for e in window], size))
        seconds += time.perf_counter() - start
    none = np.zeros([0, len(names)], np.float32)
    found = {
        name: np.concatenate([none, *(window[key] for window in windows)])
        for name, key in _OUTPUTS.items()
        if all(key in window for window in windows)
    }
    return _Answers(
        labels=np.array(labels, np.int64),
        probabilities=found.pop("both"),
        parts=found,
        digests=np.array(digests, np.uint64),
        excerpts=excerpts,
        seconds=seconds,
    )


def _probabilities(
    classify: Callable[..., dict[str, tf.Tensor]], texts: list[bytes], size: int
) -> dict[str, np.ndarray]:
    """Of each part float32 [N, C], in order; asked in order of length."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers = [
        classify(text=tf.constant([texts[i] for i in order[first:][:size]]))
        for first in range(0, len(order), size)
    ]
    place = np.argsort(order)
    return {
        key: np.concatenate([a[key].numpy() for a in answers])[place]
        for key in _OUTPUTS.values()
        if key in answers[0]
    }


def _parts(answers: _Answers) -> dict[str, Any]:
    """How good each part is alone, and what both gain over n-grams alone."""
    if not answers.parts:
        return {}
    number = len(answers.labels)
    gains = statistics.paired_gain(
        answers.labels, answers.probabilities, answers.parts["n-grams"]
    )
    return {
        "parts": {
            name: statistics.wilson(
                int((rates.argmax(axis=1) == answers.labels).sum()), number
            ).to_dict()
            for name, rates in answers.parts.items()
        },
        "gain_over_ngrams": {k: v.to_dict() for k, v in gains.items()},
    }


def _excerpt(raw: bytes) -> str:
    # A cut character at the end becomes one mark, which is cut off again.
    text = raw[: 4 * _EXCERPT].decode(errors="replace")
    return " ".join(text.split())[:_EXCERPT]


def _most_wrong(answers: _Answers, names: list[str]) -> list[dict[str, Any]]:
    """Documents with the least probability of their label, the worst first."""
    rows = np.arange(len(answers.labels))
    true = answers.probabilities[rows, answers.labels]
    said = answers.probabilities.argmax(axis=1)
    worst = np.argsort(true, kind="stable")
    worst = worst[(said != answers.labels)[worst]][:_NUM_WORST]
    return [
        {
            "document": int(i) + 1,
            "text": answers.excerpts[i],
            "label": names[answers.labels[i]],
            "answer": names[said[i]],
            "probability": float(answers.probabilities[i, said[i]]),
        }
        for i in worst
    ]


def require_control(control: str) -> None:
    """Refuses an `evaluation.control` that has not been evaluated."""
    if control and not (storage.path_of(control) / PREDICTIONS).exists():
        raise ValueError(
            f"evaluation.control={control} holds no {PREDICTIONS}; run"
            " --mode=evaluate with that workdir first."
        )


def _gain(control: str, folder: pathlib.Path) -> dict[str, Any]:
    """The paired gain over the evaluated run in another workdir."""
    if not control:
        return {}
    require_control(control)
    paths = [path / PREDICTIONS for path in (folder, storage.path_of(control))]
    run, other = (
        dict(np.load(io.BytesIO(path.read_bytes()), allow_pickle=False))
        for path in paths
    )
    for name in ("names", "digests", "labels"):
        if not np.array_equal(run[name], other[name]):
            raise ValueError(
                f"evaluation.control={control} was evaluated on other"
                f" documents (its {name} differ); compare runs with the same"
                " test split."
            )
    gains = statistics.paired_gain(
        run["labels"], run["probabilities"], other["probabilities"]
    )
    return {
        "gain_over_control": {k: v.to_dict() for k, v in gains.items()},
        "control": control,
    }


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
