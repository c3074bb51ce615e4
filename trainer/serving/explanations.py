"""What the signature `explain` answers, for files and for people."""

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainer.serving import loading

Explanation = Mapping[str, Any]
# Output of the signature -> what judges the words there.
_PARTS = {"ngrams": "n-grams", "encoder": "encoder"}
_MOST_SHOWN = 5  # Words for an answer, and as many against it.
_DIGITS = 4


def of(
    exported: loading.Exported, texts: Sequence[bytes]
) -> list[dict[str, Any]]:
    """What `modeling.explain` says of each text, JSON-ready.

    Returns:
      `label`, `against`, `log_odds`, `bias`, `words` and, where there is an
      encoder, `encoder_log_odds`, as they are there; in `contributions` a list
      of a number for every word by who gives it, "n-grams" or "encoder". None
      stands for a word that is not explained.
    """
    outputs = exported.signatures["explain"](
        text=tf.constant([*texts], tf.string)
    )
    arrays = {key: value.numpy().tolist() for key, value in outputs.items()}
    parts = {key: arrays.pop(key) for key in _PARTS if key in arrays}
    found = []
    for n in range(len(texts)):
        one = {key: values[n] for key, values in arrays.items()}
        one |= {key: one[key].decode() for key in ("label", "against")}
        one["words"] = [word.decode() for word in one["words"] if word]
        one["contributions"] = {
            _PARTS[part]: [
                None if math.isnan(value) else round(value, _DIGITS)
                for value in values[n][: len(one["words"])]
            ]
            for part, values in parts.items()
        }
        found.append(one)
    return found


def shortened(explanation: Explanation, characters: int) -> dict[str, Any]:
    """The same for the words within the first characters of the text."""
    ends = [*itertools.accumulate(map(len, explanation["words"]))]
    number = bisect.bisect_right(ends, characters)
    return {
        **explanation,
        "words": explanation["words"][:number],
        "contributions": {
            name: values[:number]
            for name, values in explanation["contributions"].items()
        },
    }


def rather(explanation: Explanation) -> str:
    """ " rather than ..." where the answer is explained against another."""
    against = explanation["against"]
    return f" rather than {against}" if against else ""


def lines(explanation: Explanation) -> Iterator[str]:
    """The words that say most for the answer and against it, as text."""
    yield (
        f"{explanation['label']}{rather(explanation)}: log-odds"
        f" {explanation['log_odds']:+.2f}"
    )
    words = [word.strip() for word in explanation["words"]]
    for name, values in explanation["contributions"].items():
        pairs = sorted(
            (value, word)
            for value, word in zip(values, words, strict=True)
            if value
        )
        for side, most in (
            ("for it", [p for p in pairs[::-1] if p[0] > 0]),
            ("against it", [p for p in pairs if p[0] < 0]),
        ):
            if most:
                shown = ", ".join(
                    f"{value:+.2f} {word}" for value, word in most[:_MOST_SHOWN]
                )
                yield f"  {name}, {side}: {shown}"
        if left := values.count(None):
            yield f"  {name}: {left:,} later words are not explained"
