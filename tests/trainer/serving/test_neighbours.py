"""Which training documents are like a text, and which are compared at all."""

import numpy as np
import pytest

from trainer.serving import neighbours

VECTORS = {
    "north": [10, 1.0],
    "south": [10, -1.0],
    "east": [14, 0.0],
    "north by east": [11, 0.9],
    "far north": [10, 5.0],
}


def embed(texts):
    return [{"embeddings": VECTORS[text.decode()]} for text in texts]


def test_the_most_similar_come_first_by_what_sets_them_apart():
    documents = [(text, text.upper()) for text in VECTORS]
    index = neighbours.Neighbours(embed, documents, 2)
    found, other = index.of([b"north", b"south"])
    # By the vectors as they are, "north by east" would come before "far north".
    vectors = np.array([*VECTORS.values()]) - np.mean([*VECTORS.values()], 0)
    lengths = np.linalg.norm(vectors, axis=1)
    expected = vectors @ vectors[0] / lengths / lengths[0]
    order = np.argsort(-expected)[:2]
    assert [one["text"] for one in found["neighbours"]] == [
        [*VECTORS][m] for m in order
    ]
    assert [one["label"] for one in found["neighbours"]][0] == "NORTH"
    for one, m in zip(found["neighbours"], order, strict=True):
        assert one["similarity"] == pytest.approx(expected[m], abs=1e-4)
    assert other["neighbours"][0]["text"] == "south"


def test_more_documents_than_are_compared_are_thinned_out_evenly(monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_DOCUMENTS", 3)
    monkeypatch.setattr(neighbours, "_AT_ONCE", 2)
    asked = []

    def embed(texts):
        asked.extend(texts)
        return [{"embeddings": [len(text), 1.0]} for text in texts]

    texts = ["aaaa", "b", "ccc", "dd", "eeeee"]
    neighbours.Neighbours(embed, [(text, "") for text in texts], 1)
    assert sorted(asked) == [b"aaaa", b"ccc", b"eeeee"]


def test_what_cannot_be_embedded_is_said():
    index = neighbours.Neighbours(embed, [("north", "a")], 3)
    index._embed = lambda texts: [{"error": "empty line"}, *embed(texts[1:])]
    bad, good = index.of([b"", b"south"])
    assert bad == {"error": "empty line"}
    assert len(good["neighbours"]) == 1
    with pytest.raises(ValueError, match="there is none"):
        neighbours.Neighbours(embed, [], 1)

    def refuse(texts):
        return [{"error": "the export has no embed"}] * len(texts)

    with pytest.raises(ValueError, match="no embed; leave it out"):
        neighbours.Neighbours(refuse, [("north", "a")], 1)
