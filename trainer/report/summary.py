"""The results of a run in a few lines, read from its files."""

from collections.abc import Mapping, Sequence
from typing import Any

Events = Sequence[Mapping[str, Any]]


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


def table(found: Mapping[str, str]) -> str:
    """The lines as text, with the values in one column."""
    width = max(map(len, found), default=0) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in found.items())


def evaluation_lines(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """What was measured, with intervals where there are some."""
    masked_lm = evaluation.get("masked_lm") or {}
    found = {
        f"masked-LM validation {name}": f"{masked_lm[name]:.4g}"
        for name in ("loss", "perplexity", "accuracy")
        if name in masked_lm
    }
    if classifier := evaluation.get("classifier"):
        number = evaluation["documents"]["evaluated"]
        accuracy = _with_range(classifier["accuracy"])
        found["test accuracy"] = f"{accuracy}, of {number:,} documents"
        found["test loss"] = _with_range(classifier["loss"])
        found[f"test F1 of {classifier['f1_of']}"] = _with_range(
            classifier["f1"]
        )
        # Evaluations by older versions have none.
        if overconfidence := classifier.get("overconfidence"):
            found["test overconfidence"] = (
                f"{_with_range(overconfidence)}, mean confidence minus accuracy"
            )
    for name, accuracy in evaluation.get("parts", {}).items():
        found[f"test accuracy, {name} alone"] = _with_range(accuracy)
    if gain := evaluation.get("gain_over_ngrams"):
        found["verdict"] = verdict(gain["accuracy"])
    for name, gain in evaluation.get("gain_over_control", {}).items():
        found[f"{name} gained over control"] = _with_range(gain)
    return found


def verdict(gain: Mapping[str, float]) -> str:
    """What the encoder is worth, from the accuracy gained over n-grams."""
    points, low, high = (100 * gain[key] for key in ("value", "low", "high"))
    measured = f"{points:.1f} points ({low:.1f} to {high:.1f})"
    if low > 0:
        return f"The encoder gains {measured} over n-grams alone."
    return (
        f"n-grams alone do as well on this text (the encoder gains {measured});"
        " --config.finetune.encoder=False exports them without any pretraining."
    )


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
