"""The results of a run in a few lines, read from its files."""

from collections.abc import Mapping, Sequence
from typing import Any

Events = Sequence[Mapping[str, Any]]
Cells = Sequence[str]
_MOST_CONFUSED, _MOST_CLASSES = 3, 10  # That a terminal shows.
_MOST_NGRAMS = 20  # Classes whose n-grams a report shows.
_MOST_NAMED = 6  # Classes that a sentence names.


def answer(evaluation: Mapping[str, Any]) -> list[str]:
    """What the run made, how good it is and against what, in sentences.

    Args:
      evaluation: the content of evaluation.json, or {}.
    """
    if not (classifier := evaluation.get("classifier")):
        if not (masked_lm := evaluation.get("masked_lm")):
            return []
        return [
            "This encoder fills in masked words; its first guess is right for"
            f" {100 * masked_lm['accuracy']:.1f} % of those in the validation"
            " text. No classifier was evaluated."
        ]
    labels = evaluation["labels"]
    named = ", ".join(labels[:_MOST_NAMED])
    if len(labels) > _MOST_NAMED:
        named += " and others"
    number = evaluation["documents"]["evaluated"]
    others = {
        f"{name} alone": _percent(accuracy)
        for name, accuracy in evaluation.get("parts", {}).items()
    }
    if evaluation.get("multilabel"):
        does = f"finds which of {len(labels):,} classes a text belongs to"
        right, decides = "is right in every class", "answered labels"
    else:
        does = f"sorts texts into {len(labels):,} classes"
        right, decides = "is right", "documents"
        if classes := evaluation.get("classes"):
            most = max(classes, key=lambda one: one["support"])
            others[f"always {most['label']}"] = (
                f"{100 * most['support'] / number:.1f} %"
            )
    sentences = [
        f"This classifier {does}: {named}.",
        f"It {right} on {_percent(classifier['accuracy'])} of {number:,} test"
        " documents, which it had never seen.",
    ]
    if others:
        told = "; ".join(f"{name}, {value}" for name, value in others.items())
        sentences.append(f"To compare: {told}.")
    if gain := evaluation.get("gain_over_ngrams"):
        sentences.append(verdict(gain))
    if decided := evaluation.get("decisions"):
        sentences.append(
            f"It decides {_percent(decided['coverage'])} of the {decides}, and"
            f" {_percent(decided['precision'])} of the decisions are right."
        )
    return sentences


def lines(
    *,
    stages: Mapping[str, Events],
    parameters: Mapping[str, int],
    evaluation: Mapping[str, Any],
    places: Mapping[str, str],
    best_by: str = "loss",
) -> dict[str, str]:
    """Name -> value of each result that the run has.

    Args:
      stages: name -> lines of metrics.jsonl.
      parameters: stage -> number of parameters.
      evaluation: the content of evaluation.json, or {}.
      places: what the run made -> its path.
      best_by: "loss" or "accuracy", whichever chose the best checkpoint.
    """
    found: dict[str, str] = {}
    for stage, events in stages.items():
        if stage in parameters:
            found[f"{stage}: parameters"] = f"{parameters[stage]:,}"
        found |= {
            f"{stage}: {name}": value
            for name, value in _stage(
                # Pretraining goes by loss.
                events,
                "loss" if stage == "pretrain" else best_by,
            ).items()
        }
    found |= evaluation_lines(evaluation)
    return {**found, **places}


def table(
    found: Mapping[str, str], more: Mapping[str, Sequence[Cells]] | None = None
) -> str:
    """The lines as text, and below them the first classes of each table.

    Args:
      found: name -> value.
      more: from `tables`.
    """
    parts = [columns([*found.items()])]
    for rows in (more or {}).values():
        parts += ["", columns(rows[: 1 + _MOST_CLASSES])]
        if (left := len(rows) - 1 - _MOST_CLASSES) > 0:
            parts.append(f"… and {left:,} more classes in the report")
    return "\n".join(parts)


def columns(rows: Sequence[Cells]) -> str:
    """Rows of cells as text, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(map(str.rstrip, lines))


def tables(evaluation: Mapping[str, Any]) -> dict[str, list[Cells]]:
    """Title -> a header and a row of cells for each class.

    What was not measured, or not by an older version, has no table.
    """
    found = dict[str, list[Cells]]()
    if classes := evaluation.get("classes"):
        measures = ("precision", "recall", "f1")
        found["Classes, most errors first"] = [
            ("class", "documents", "errors", "precision", "recall", "F1"),
            *(
                (
                    one["label"],
                    f"{one['support']:,}",
                    f"{one['errors']:,}",
                    *(_with_range(one[measure]) for measure in measures),
                )
                for one in classes
            ),
        ]
    if decided := evaluation.get("decisions"):
        found["Decisions"] = [
            ("decision", "from confidence", "of these right", "decided"),
            *(
                (
                    one["label"],
                    "never"
                    if one["threshold"] is None
                    else f"{one['threshold']:.4f}",
                    _with_range(one["precision"]),
                    _with_range(one["coverage"]),
                )
                for one in decided["classes"]
            ),
        ]
    return found


def ngram_tables(evaluation: Mapping[str, Any]) -> dict[str, list[Cells]]:
    """The same of what speaks for the classes; too wide for a terminal."""
    found = evaluation.get("strongest_ngrams", {})
    # Most errors first, as in the table of the classes.
    labels = [one["label"] for one in evaluation.get("classes", [])]
    rows = [
        (label, ", ".join(found[label])) for label in labels if label in found
    ]
    if not rows:
        return {}
    title = "n-grams that speak most for a class"
    return {title: [("class", "the strongest first"), *rows[:_MOST_NGRAMS]]}


def evaluation_lines(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """What was measured, with intervals where there are some."""
    masked_lm = evaluation.get("masked_lm") or {}
    found = {
        f"masked-LM validation {name}": f"{masked_lm[name]:.4g}"
        for name in ("loss", "perplexity", "accuracy")
        if name in masked_lm
    }
    # What `accuracy` is where a document may have several labels.
    measure = "exact match" if evaluation.get("multilabel") else "accuracy"
    if classifier := evaluation.get("classifier"):
        number = evaluation["documents"]["evaluated"]
        accuracy = _with_range(classifier["accuracy"])
        found[f"test {measure}"] = f"{accuracy}, of {number:,} documents"
        found["test loss"] = _with_range(classifier["loss"])
        # Evaluations by older versions lack some of them.
        means = {"micro_f1": "micro F1", "macro_f1": "macro F1"}
        if measure == "accuracy":  # With one label, it is micro F1.
            means = {
                "macro_f1": "macro F1",
                "balanced_accuracy": "balanced accuracy",
            }
        for key, name in means.items():
            if key in classifier:
                found[f"test {name}"] = _with_range(classifier[key])
        if overconfidence := classifier.get("overconfidence"):
            found["test overconfidence"] = (
                f"{_with_range(overconfidence)}, mean confidence minus"
                f" {measure}"
            )
    if decided := evaluation.get("decisions"):
        for split, one in (
            ("test", decided),
            ("validation", decided["on_validation"]),
        ):
            found[f"{split} decisions"] = (
                f"{_with_range(one['precision'])} right,"
                f" {decided['min_precision']:g} wanted; decided:"
                f" {_with_range(one['coverage'])}"
            )
    if confused := evaluation.get("confused"):
        found["most confused"] = "; ".join(
            f"{pair['label']} answered {pair['answer']}: {pair['documents']:,}"
            for pair in confused[:_MOST_CONFUSED]
        )
    for name, accuracy in evaluation.get("parts", {}).items():
        found[f"test {measure}, {name} alone"] = _with_range(accuracy)
    if gain := evaluation.get("gain_over_ngrams"):
        found["verdict"] = verdict(gain)
    for name, gain in evaluation.get("gain_over_control", {}).items():
        found[f"{name.replace('_f1', ' F1')} gained over control"] = (
            _with_range(gain)
        )
    return found


def verdict(gains: Mapping[str, Mapping[str, float]]) -> str:
    """What the encoder is worth, from what it gained over n-grams.

    That is accuracy; micro F1 where a document may have several labels.
    """
    measure = "micro_f1" if "micro_f1" in gains else "accuracy"
    points, low, high = (
        100 * gains[measure][key] for key in ("value", "low", "high")
    )
    unit = "points of micro F1" if measure == "micro_f1" else "points"
    measured = f"{points:.1f} {unit} ({low:.1f} to {high:.1f})"
    if low > 0:
        return f"The encoder gains {measured} over n-grams alone."
    return (
        f"n-grams alone do as well on this text (the encoder gains {measured});"
        " --config.finetune.encoder=False exports them without any pretraining."
    )


def _percent(value: Mapping[str, float]) -> str:
    """The same as "95.0 % (94.0 to 96.0)"."""
    share, low, high = (100 * value[key] for key in ("value", "low", "high"))
    return f"{share:.1f} % ({low:.1f} to {high:.1f})"


def _with_range(value: Mapping[str, float]) -> str:
    """An estimate of evaluation.json as "0.9500 (0.9400 to 0.9600)"."""
    return f"{value['value']:.4f} ({value['low']:.4f} to {value['high']:.4f})"


def _stage(events: Events, best_by: str) -> dict[str, str]:
    found = {}
    if events:
        found["steps"] = f"{max(event['step'] for event in events):,}"
    tokens = [
        event["real_tokens"] for event in events if "real_tokens" in event
    ]
    if tokens:
        seconds = sum(event.get("seconds", 0.0) for event in events)
        found["real tokens seen"] = f"{sum(tokens):,.0f}"
        found["time in steps"] = _clock(seconds)
    key = f"validation_{best_by}"
    if measured := [event for event in events if key in event]:
        choose = max if best_by == "accuracy" else min
        best = choose(measured, key=lambda event: event[key])
        found[f"best validation {best_by}"] = (
            f"{best[key]:.4f} after step {best['step']:,}"
        )
        for name in ("loss", "perplexity", "accuracy"):
            if f"validation_{name}" in best and name != best_by:
                value = best[f"validation_{name}"]
                found[f"validation {name} there"] = f"{value:.4f}"
    return found


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
