"""Tests of trainer/modeling/text_masked_lm.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.modeling.test_text import (
    LENGTH,
    LETTERS,
    PIECES,
    WORDS,
    common,
    create_masked_lm,
    text,
    tokenizer_of,
)
from trainer import modeling

MASK = "[MASK]"


def filled_in(model, tokens, ids):
    """(tokens, probabilities) of the masks of one row of ids."""
    ids = tokens.wrap(np.asarray(ids, np.int32))
    padded = np.zeros([1, LENGTH], np.int32)
    padded[0, : len(ids)] = ids
    is_text = (np.arange(LENGTH) < len(ids)).astype(np.int32)[np.newaxis]
    batch = {
        "token_ids": tf.constant(padded),
        "segment_ids": tf.constant(is_text),
        "position_ids": tf.constant(is_text * np.arange(LENGTH, dtype="int32")),
        "mask_positions": tf.constant(
            [np.flatnonzero(ids == tokens.special.mask)], tf.int32
        ),
    }
    logits = np.where(
        tokens.is_special, -np.inf, model.masked_lm(batch)[0].numpy()
    )
    rates, best = tf.math.top_k(tf.nn.softmax(logits), k=model.top_k)
    return np.array(tokens.vocabulary)[best.numpy()], rates.numpy()


MASK = "[MASK]"
PROMPTS = [
    (MASK, 1),
    ("w1 [MASK] w2 [MASK]", 2),
    ("[MASK] w3 [MASK] w4 [MASK]", 3),
    ("w1 w2", 0),
    ("", 0),
    ("[MASK] w1 [MASK] [MASK] [MASK]", 4),
]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("word", {"attend_padding": True}),
        ("wordpiece", {"positions": "rotary"}),
    ],
)
def test_masks_are_filled_in(kind, changes):
    model, tokens = create_masked_lm(kind, **changes), tokenizer_of(kind)
    graph = tf.function(
        model, input_signature=[tf.TensorSpec([None], "string")]
    )
    result = graph(tf.constant([prompt for prompt, _ in PROMPTS]))
    answers = {key: value.numpy() for key, value in result.items()}
    assert answers["tokens"].shape == (len(PROMPTS), 3, 4)
    assert answers["probabilities"].shape == (len(PROMPTS), 3, 4)
    assert answers["count"].tolist() == [count for _, count in PROMPTS]
    for n, (prompt, count) in enumerate(PROMPTS):
        here = min(count, 3)
        assert (answers["tokens"][n, here:] == b"").all()
        assert not answers["probabilities"][n, here:].any()
        if here:
            ids = tokens.encode_prompt(prompt)
            inner = ids[1:-1] if tokens.num_wrapping else ids
            words, rates = filled_in(model, tokens, inner)
            found = answers["tokens"][n, :here].astype(str)
            np.testing.assert_array_equal(found, words[:here])
            np.testing.assert_allclose(
                answers["probabilities"][n, :here], rates[:here], atol=1e-5
            )
    none = graph(tf.zeros([0], tf.string))
    assert none["tokens"].shape == (0, 3, 4)
    assert none["count"].shape == (0,)


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_the_window_holds_the_masks(kind):
    model, tokens = create_masked_lm(kind), tokenizer_of(kind)
    room = model.room
    cases = []
    for length in (room - 1, room, room + 1, 3 * room + 1):
        for place in range(length):
            for gap in range(1, room):
                words = text(length).split()
                places = {place, min(place + gap, length - 1)}
                for mask in places:
                    words[mask] = MASK
                cases.append((" ".join(words), len(places)))
    ids = tokens.codec.prompt_ids(tf.constant([words for words, _ in cases]))
    windows = model._window(ids).to_list()
    for whole, window, (_, count) in zip(
        ids.to_list(), windows, cases, strict=True
    ):
        assert len(window) == min(len(whole), room)
        assert window.count(tokens.special.mask) == count
        assert any(
            whole[n : n + len(window)] == window
            for n in range(len(whole) - len(window) + 1)
        )


@pytest.mark.parametrize("kind", ["unicode_word", "wordpiece"])
def test_a_saved_model_keeps_upper_case(kind, tmp_path):
    vocabulary = WORDS if kind == "unicode_word" else PIECES
    model = modeling.TextMaskedLM(
        **common("word") | {"kind": kind, "vocabulary": vocabulary},
        lowercase=False,
        max_masks=1,
        top_k=1,
    )
    model.save(tmp_path / "model.keras")
    codec = keras.saving.load_model(tmp_path / "model.keras").codec
    (ids,) = codec.document_ids(tf.constant(["w3 W3"])).to_list()
    assert ids == [vocabulary.index("w3"), codec.special.unknown]


def test_masks_too_far_apart_have_no_answer():
    result = create_masked_lm()(tf.constant([f"{MASK} {text(20)} {MASK}"]))
    assert result["count"][0] == 2
    found = (result["tokens"][0].numpy() != b"").all(-1)
    assert found.tolist() == [True, False, False]


def test_no_more_answers_than_ordinary_tokens():
    model = modeling.TextMaskedLM(**common("word"), max_masks=1, top_k=99)
    assert model(tf.constant([MASK]))["tokens"].shape == (1, 1, len(LETTERS))
