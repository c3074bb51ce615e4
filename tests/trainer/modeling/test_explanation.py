"""Tests of trainer/modeling/explanation.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from tests.trainer.modeling import test_text
from trainer import modeling
from trainer.modeling import explanation

# A word that no vocabulary has, and is one unknown token to each.
UNKNOWN = "\u2603"
TEXTS = [
    *("", "...", "w3", UNKNOWN, f"{UNKNOWN} \u05d0 \u200f zzz"),
    'w3 w4. "w3" <b>w4</b> & w9<br />w1',
    " ".join(test_text.LETTERS) + " w7" * 9,
]


def create(kind, labels, *, encoder=True, has_ngrams=True, **kwargs):
    model = test_text.create_classifier(
        kind,
        labels=labels,
        encoder=encoder,
        num_ngrams=19 if has_ngrams else 0,
        pieces_per_row=2,
        **kwargs,
    )
    width = model.num_logits
    if has_ngrams:
        fitted = test_text.fitted_ngrams(model.codec, width)
        model.ngrams.assign(fitted)
        shares = [0.7, 1.3] if encoder else [1.3]
        bias = np.linspace(-1, 1, width + 2)[1:-1]
        model.mixture.assign(np.concatenate([shares, bias]))
    return model


def explain(model, texts):
    found = modeling.explain(model, tf.constant(texts, tf.string))
    return {key: value.numpy() for key, value in found.items()}


def log_odds(rates, found, labels):
    """ln(p1 / p2) [N] of probabilities [N, C], of the classes explained."""
    places = np.array([*map(labels.index, map(bytes.decode, found["label"]))])
    others = [*map(labels.index, map(bytes.decode, found["against"]))]
    rows = np.arange(len(rates))
    return np.log(rates[rows, places] / rates[rows, np.array(others)])


@pytest.mark.parametrize(
    ("kind", "labels", "parts"),
    [
        ("word", ("bad", "good"), {}),
        ("wordpiece", ("a", "b", "c"), {}),
        ("word", ("a", "b", "c"), {"encoder": False}),
        ("wordpiece", ("bad", "good"), {"has_ngrams": False}),
    ],
)
def test_contributions_are_those_of_the_answer(kind, labels, parts):
    model = create(kind, labels, **parts)
    found = explain(model, TEXTS)
    answers = model.classify(tf.constant(TEXTS))
    rates = answers["probabilities"].numpy()
    np.testing.assert_array_equal(found["label"], answers["label"])
    total = log_odds(rates, found, labels)
    assert (total >= 0).all()
    np.testing.assert_allclose(found["log_odds"], total, atol=1e-5)
    sums = found["bias"] + found.get("encoder_log_odds", 0.0)
    if "ngrams" in found:
        sums = sums + found["ngrams"].sum(axis=1)
        assert np.count_nonzero(found["ngrams"][-1]) > 3
    np.testing.assert_allclose(sums, total, atol=1e-5)
    alone = [explain(model, [text]) for text in TEXTS]
    for n, one in enumerate(alone):
        assert b"".join(found["words"][n]).decode() == TEXTS[n]
        for key in {"ngrams", "encoder"} & found.keys():
            width = one[key].shape[1]
            np.testing.assert_allclose(
                found[key][n, :width], one[key][0], atol=1e-5
            )
            assert not found[key][n, width:].any()


def test_of_several_labels_the_likeliest_is_explained_by_itself():
    model = create("word", ("a", "b"), multilabel=True)
    found = explain(model, TEXTS)
    rates = model.classify(tf.constant(TEXTS))["probabilities"].numpy()
    likeliest = [b"ab"[place : place + 1] for place in rates.argmax(axis=1)]
    assert found["label"].tolist() == likeliest
    assert {*found["against"]} == {b""}
    odds = rates.max(axis=1) / (1 - rates.max(axis=1))
    np.testing.assert_allclose(found["log_odds"], np.log(odds), atol=1e-4)
    sums = found["bias"] + found["encoder_log_odds"]
    sums += found["ngrams"].sum(axis=1)
    np.testing.assert_allclose(sums, found["log_odds"], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "labels", "has_ngrams"),
    [("word", ("bad", "good"), True), ("wordpiece", ("a", "b", "c"), False)],
)
def test_the_encoder_contributes_what_hiding_a_word_takes(
    kind, labels, has_ngrams
):
    model = create(kind, labels, has_ngrams=has_ngrams)
    words = [f"{word} " for word in TEXTS[-1].split()]
    found = explain(model, ["".join(words)])
    most = model.max_pieces * model.room
    assert not found["encoder"][0, most:].any()  # Not read.
    name = "encoder_probabilities" if has_ngrams else "probabilities"
    share = 0.7 if has_ngrams else 1.0
    hidden = [
        "".join([*words[:n], UNKNOWN, " ", *words[n + 1 :]])
        for n in range(len(words))
    ]
    rates = model.classify(tf.constant(["".join(words), *hidden]))[name]
    same = {
        key: np.repeat(found[key], len(rates)) for key in ("label", "against")
    }
    scores = share * log_odds(rates.numpy(), same, labels)
    np.testing.assert_allclose(found["encoder_log_odds"], scores[0], atol=1e-5)
    np.testing.assert_allclose(
        found["encoder"][0], scores[0] - scores[1:], atol=1e-5
    )
    assert np.abs(found["encoder"][0, :most]).min() > 1e-4


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_so_many_words_are_explained(extra, monkeypatch):
    monkeypatch.setattr(explanation, "MAX_HIDDEN", 5)
    model = create("word", ("bad", "good"))
    words = " ".join(f"{UNKNOWN} ... w{n}" for n in range(5 + extra))
    found = explain(model, ["", "w1", words, "w2"])
    is_left_out = np.isnan(found["encoder"])
    assert is_left_out.sum() == max(0, extra)
    assert is_left_out[2, -1] == (extra == 1)
    assert not np.isnan(found["ngrams"]).any()


def test_a_word_of_several_pieces_is_one():
    model = modeling.TextClassifier(
        **{
            **test_text.common("wordpiece"),
            "vocabulary": [*test_text.PIECES, "mov", "##ie", "##s"],
        },
        labels=["a", "b"],
        finetune=test_text.fields(schema.FinetuneConfig),
    )
    found = explain(model, ["w1 Movies, w2"])
    assert found["words"][0].tolist() == [b"w1 ", b"Movies", b", ", b"w2"]
    hidden = explain(model, [f"w1 {UNKNOWN} {UNKNOWN} {UNKNOWN}, w2"])
    sign = 1 if found["label"] == hidden["label"] else -1
    np.testing.assert_allclose(
        found["encoder"][0, 1],
        found["log_odds"][0] - sign * hidden["log_odds"][0],
        atol=1e-5,
    )


def test_a_word_that_decides_comes_first():
    model = create("word", ("no", "yes"), has_ngrams=False)
    random = np.random.default_rng(0)
    texts = [random.choice(test_text.LETTERS[2:], 8) for _ in range(64)]
    for n, words in enumerate(texts):
        words[n % 8] = ("w0", "w1")[n % 2]
    batch = model.codec.document_ids(
        tf.constant([" ".join(words) for words in texts])
    )
    rows, owners = model.rows(batch), tf.repeat(tf.range(64)[:, None], 8, 1)
    wanted = tf.constant([[n % 2] for n in range(64)], tf.float32)
    optimizer = keras.optimizers.Adam(0.05)
    variables = model.classifier.trainable_variables
    optimizer.build(variables)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            logits = model.classifier.head(
                model.encoder(rows), owners, num_documents=64
            )
            loss = tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits)
        optimizer.apply(tape.gradient(loss, variables))
        return tf.reduce_mean(loss)

    for _ in range(40):
        loss = step()
    assert loss < 0.1
    for text, label in (("w5 w9 w0 w7", b"no"), ("w1 w4 w8 w8", b"yes")):
        found = explain(model, [text])
        assert found["label"] == label
        first = found["words"][0, found["encoder"][0].argmax()]
        assert first.strip() in (b"w0", b"w1")


def test_no_text_is_explained():
    model = create("word", ("a", "b", "c"))
    found = tf.function(modeling.explain, autograph=False)(
        model, tf.zeros([0], tf.string)
    )
    assert found["words"].shape == (0, 0)
    assert found["log_odds"].shape == (0,)
