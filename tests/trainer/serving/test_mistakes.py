"""Tests of trainer/serving/mistakes.py."""

import pytest
import tensorflow as tf

from trainer.serving import loading, mistakes


def explain(text):
    """Words by blanks, and the place of each as its contribution."""
    words = tf.strings.split(tf.strings.regex_replace(text, " ", " |"), "|")
    values = tf.cast(tf.ragged.range(words.row_lengths()), tf.float32)
    number = text.shape[0]
    return {
        "words": words.to_tensor(""),
        "label": tf.fill([number], "b"),
        "against": tf.fill([number], "c"),
        "log_odds": tf.ones([number]),
        "bias": tf.zeros([number]),
        "ngrams": values.to_tensor(0.0),
    }


def test_the_beginning_of_a_text_is_shown_and_explained():
    documents = {2: b"good  " * 100, 0: b"so dull"}
    arguments = (documents, "ca", "bb", [0.9, 0.5])
    first, second = mistakes.shown(
        *arguments, loading.Exported({}, {"explain": explain})
    )
    words = first.pop("explanation")["words"]
    assert first == {
        "document": 3,
        "text": "good " * 80,
        "label": "c",
        "answer": "b",
        "probability": pytest.approx(0.9),
    }
    assert 390 < len("".join(words)) <= 400
    assert (second["document"], second["label"]) == (1, "a")
    values = second["explanation"]["contributions"]
    assert values == {"n-grams": [0, 1]}
    for one in mistakes.shown(
        *arguments, loading.Exported({}, {"classify": None})
    ):
        assert "explanation" not in one  # As of an older version.
