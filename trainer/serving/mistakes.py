"""Documents with a wrong answer: their text, and why they were answered so."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.serving import explanations, loading

_EXCERPT = 400  # Characters of a text.


def shown(
    documents: Mapping[int, bytes],
    labels: Sequence[str],
    answers: Sequence[str],
    probabilities: np.ndarray,
    exported: loading.Exported,
) -> list[dict[str, Any]]:
    """What a report shows of mistakes, JSON-ready.

    Args:
      documents: place among the N -> raw text, of those that are shown.
      labels: of all N documents.
      answers: likewise.
      probabilities: float [N], of the answers.
      exported: what answered.

    Returns:
      For each `document` (its number, from 1) the beginning of its `text`,
      `label`, `answer`, the `probability` of the answer and, unless the export
      is an older one, the `explanation` of that beginning, see
      `explanations.of`.
    """
    found = []
    for i, raw in documents.items():
        # A cut character at the end becomes one mark, which is cut off.
        text = raw[: 4 * _EXCERPT].decode(errors="replace")
        found.append(
            {
                "document": i + 1,
                "text": " ".join(text.split())[:_EXCERPT],
                "label": labels[i],
                "answer": answers[i],
                "probability": float(probabilities[i]),
            }
        )
    if "explain" in exported.signatures:
        explained = explanations.of(exported, [*documents.values()])
        for one, whole in zip(found, explained, strict=True):
            one["explanation"] = explanations.shortened(whole, _EXCERPT)
    return found
