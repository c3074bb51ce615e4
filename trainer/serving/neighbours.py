"""The training documents that are most like a text, by the vectors of `embed`.

M training documents, N texts, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MOST_DOCUMENTS = 20_000  # More are thinned out evenly.
_AT_ONCE = 64  # Documents embedded together.
_EXCERPT = 400  # Characters of a document that are shown.

Document = tuple[str, str | tuple[str, ...]]  # Its text, and label or labels.
# From texts in UTF-8 to "embeddings" or an "error" for each.
Embed = Callable[[Sequence[bytes]], list[dict[str, Any]]]


class Neighbours:
    """An index of labelled documents.

    Vectors are compared by their cosine after the mean of all documents is
    taken off, because vectors of a masked-LM have much in common (Mu and
    Viswanath, "All-but-the-Top", 2018).
    """

    def __init__(
        self, embed: Embed, documents: Sequence[Document], number: int
    ) -> None:
        """Embeds text and label of each document; a text has `number` of them.

        Raises:
          ValueError: there is no document, or the export has no encoder.
        """
        documents = documents[:: -(-len(documents) // MOST_DOCUMENTS) or 1]
        # Texts of one length are padded least.
        self._documents = sorted(documents, key=lambda one: len(one[0]))
        self._embed, self._number = embed, number
        if not documents:
            raise ValueError(
                "serve.neighbours shows labelled documents of the training"
                " text, and there is none; leave it out."
            )
        found: list[dict[str, Any]] = []
        for first in range(0, len(documents), _AT_ONCE):
            batch = self._documents[first : first + _AT_ONCE]
            found += embed([text.encode() for text, _ in batch])
        if errors := [one["error"] for one in found if "error" in one]:
            raise ValueError(f"serve.neighbours: {errors[0]}; leave it out.")
        vectors = np.array([one["embeddings"] for one in found], np.float32)
        self._mean = vectors.mean(axis=0)
        self._vectors = _normalised(vectors - self._mean)  # [M, D]

    def of(self, texts: Sequence[bytes]) -> list[dict[str, Any]]:
        """For each text `neighbours`, the most similar first, or an `error`.

        Each has the `text`, cut to 400 characters, the `label` and the
        `similarity`, between -1 and 1.
        """
        found = self._embed(texts)
        for one in found:
            if "error" in one:
                continue
            vector = np.array(one.pop("embeddings"), np.float32) - self._mean
            similar = self._vectors @ _normalised(vector)
            one["neighbours"] = [
                {
                    "text": self._documents[m][0][:_EXCERPT],
                    "label": self._documents[m][1],
                    "similarity": round(float(similar[m]), 4),
                }
                for m in np.argsort(-similar, kind="stable")[: self._number]
            ]
        return found


def _normalised(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)
