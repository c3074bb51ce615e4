"""Documents with a wrong answer: their text, and why they were answered so."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.serving import explanations, loading

_EXCERPT = 400  # Characters of a text.


def shown(
    documents: Mapping[int, bytes],
    labels: Sequence[str],
    answers: Sequence[str],
    probabilities: Iterable[float],
    exported: loading.Exported,
) -> list[dict[str, Any]]:
    """What a report shows of mistakes, JSON-ready.

    Args:
      documents: place among the test documents -> raw text.
      labels: of these documents, in their order.
      answers: likewise.
      probabilities: of the answers, likewise.
      exported: what answered.

    Returns:
      For each `document` (its number, from 1) the beginning of its `text`,
      `label`, `answer`, the `probability` of the answer and, unless the export
      is an older one, the `explanation` of that beginning, see
      `explanations.of`.
    """
    found = []
    for (place, raw), label, answer, probability in zip(
        documents.items(), labels, answers, probabilities, strict=True
    ):
        # A cut character at the end becomes one mark, which is cut off.
        text = raw[: 4 * _EXCERPT].decode(errors="replace")
        found.append(
            {
                "document": place + 1,
                "text": " ".join(text.split())[:_EXCERPT],
                "label": label,
                "answer": answer,
                "probability": float(probability),
            }
        )
    if "explain" in exported.signatures:
        explained = explanations.of(exported, [*documents.values()])
        for one, whole in zip(found, explained, strict=True):
            one["explanation"] = explanations.shortened(whole, _EXCERPT)
    return found
