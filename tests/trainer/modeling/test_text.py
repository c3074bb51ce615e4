"""Tests of trainer/modeling/text.py."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from input_pipeline import label_sets, packing, tokenizer
from trainer import modeling, ngrams

LENGTH = 8
LETTERS = [f"w{n}" for n in range(20)]
WORDS = ["", "[UNK]", *LETTERS, "[mask]"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
MODEL = {"num_layers": 1, "hidden_size": 8, "num_heads": 2}
MODEL |= {"intermediate_size": 8, "initializer_range": 0.5}


def fields(section, **changes):
    return dataclasses.asdict(section(**changes))


@functools.cache
def tokenizer_of(kind):
    if kind == "word":
        return tokenizer.WordTokenizer(WORDS)
    return tokenizer.WordPieceTokenizer(PIECES)


def common(kind, **changes):
    tokens = tokenizer_of(kind)
    return {
        "kind": kind,
        "vocabulary": tokens.vocabulary,
        "sequence_length": LENGTH,
        "model": fields(schema.ModelConfig, **{**MODEL, **changes}),
    }


def create_classifier(kind="word", *, labels=("bad", "good"), **changes):
    model = changes.pop("model", {})
    return modeling.TextClassifier(
        **common(kind, **model),
        labels=labels,
        multilabel=changes.pop("multilabel", False),
        num_ngrams=changes.pop("num_ngrams", 0),
        finetune=fields(schema.FinetuneConfig, **changes),
    )


def create_masked_lm(kind="word", **model):
    return modeling.TextMaskedLM(**common(kind, **model), max_masks=3, top_k=4)


def text(length, seed=0):
    generator = np.random.default_rng([seed, length])
    return " ".join(generator.choice(LETTERS, length))


def trained_on(model, tokens, one):
    """The probabilities [C] of a text, computed as training does."""
    (ids,) = tokens.encode([one])
    if not len(ids):
        zeros = tf.zeros([0, LENGTH, MODEL["hidden_size"]])
        owners = tf.zeros([0, LENGTH], tf.int32)
        logits = model.classifier.head(zeros, owners, num_documents=1)
        return model.probabilities(logits)[0]
    rows, _ = packing.pack(
        [ids[: model.max_pieces * (LENGTH - tokens.num_wrapping)]],
        policy="fill",
        length=LENGTH,
        wrap=tokens.wrap,
        num_wrapping=tokens.num_wrapping,
        dtype=np.dtype("<u2"),
    )
    batch = {
        key: tf.reshape(value, [1, -1])
        for key, value in packing.unpack(tf.constant(rows)).items()
    }
    batch["document_ids"] = tf.cast(batch["segment_ids"] > 0, tf.int32)
    batch["labels"] = tf.zeros([1, 1], tf.int32)
    return model.probabilities(model.classifier(batch))[0, 0]


TEXTS = ["", "...", "w1 [MASK] w2", *map(text, (1, 5, 6, 7, 8, 9, 25, 60, 90))]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("word", {"packing": "document", "pooling": "max"}),
        ("word", {"labels": ("a", "b", "c"), "pooling": "attention"}),
        ("word", {"model": {"attend_padding": True}, "pieces_per_row": 100}),
        ("wordpiece", {"model": {"positions": "rotary"}}),
        ("word", {"multilabel": True}),
    ],
)
def test_probabilities_are_those_of_training(kind, changes):
    model, tokens = create_classifier(kind, **changes), tokenizer_of(kind)
    found = model(tf.constant(TEXTS))
    assert found.dtype == tf.float32
    assert found.shape == (len(TEXTS), len(model.labels))
    expected = [trained_on(model, tokens, one) for one in TEXTS]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if not model.multilabel:
        np.testing.assert_allclose(tf.reduce_sum(found, 1), 1, atol=1e-5)
    graph = tf.function(
        model, input_signature=[tf.TensorSpec([None], "string")]
    )
    np.testing.assert_allclose(graph(tf.constant(TEXTS)), found, atol=1e-5)
    none = graph(tf.zeros([0], tf.string))
    assert none.shape == (0, len(model.labels))
    alone = graph(tf.constant(TEXTS[-2:-1]))
    np.testing.assert_allclose(alone[0], found[-2], atol=1e-5)


def test_several_labels_are_lists_of_names():
    names = ("9", "10", 'say "\u00e9", ')  # Not in the order of the lists.
    model = create_classifier(
        "word", labels=names, multilabel=True, min_precision=0.9
    )
    model.mixture.assign([8.0, 0.5, 0.0, -0.5])
    model.thresholds.assign([0.6, np.inf, 0.7])
    texts = [*TEXTS, *(text(9, seed) for seed in range(40))]
    logits = [trained_on(model, tokenizer_of("word"), one) for one in texts]
    odds = np.stack(logits) / (1 - np.stack(logits))
    rates = 1 / (1 + np.exp([-0.5, 0, 0.5]) / odds**8)
    found = model.classify(tf.constant(texts))
    np.testing.assert_allclose(found["probabilities"], rates, atol=1e-5)
    np.testing.assert_allclose(
        found["confidence"],
        np.where(rates >= 0.5, rates, 1 - rates).prod(axis=1),
        atol=1e-5,
    )
    for key, limits in (("label", 0.5), ("decision", [0.6, np.inf, 0.7])):
        expected = [
            label_sets.joined(np.array(names)[row].tolist())
            for row in rates >= limits
        ]
        assert [one.decode() for one in found[key].numpy()] == expected
        assert len({*expected}) > 2
    assert "[]" in expected
    assert model.classify(tf.zeros([0], tf.string))["label"].shape == 0


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "c")])
def test_decisions_are_those_of_training(labels):
    weights = [1.0, 4.0, 0.5][: len(labels)]
    model = modeling.TextClassifier(
        **common("word"),
        labels=labels,
        finetune=fields(schema.FinetuneConfig, min_precision=0.9),
        class_weights=weights,
    )
    bias = np.linspace(0.5, -0.5, model.num_logits)
    model.mixture.assign(np.concatenate([[1.5], bias]))
    trained = [trained_on(model, tokenizer_of("word"), one) for one in TEXTS]
    logits = np.log(np.stack(trained))
    if len(labels) == 2:
        logits -= logits[:, :1]
    added = np.concatenate([[0.0], bias]) if len(labels) == 2 else bias
    rates = np.exp(1.5 * logits + added)
    places = rates.argmax(axis=1)
    natural = rates / weights
    natural /= natural.sum(axis=1, keepdims=True)
    expected = natural[np.arange(len(TEXTS)), places]
    limits = np.full(len(labels), np.median(expected) + 1e-4)
    limits[1] = np.inf
    model.thresholds.assign(limits)
    graph = tf.function(
        model.classify, input_signature=[tf.TensorSpec([None], "string")]
    )
    found = graph(tf.constant(TEXTS))
    np.testing.assert_allclose(found["confidence"], expected, atol=1e-5)
    words = [labels[place].encode() for place in places]
    assert found["label"].numpy().tolist() == words
    is_sure = expected >= limits[places]
    assert found["decision"].numpy().tolist() == [
        word if sure else b"unsure"
        for word, sure in zip(words, is_sure, strict=True)
    ]
    assert 0 < is_sure.sum() < len(TEXTS)
    again = modeling.TextClassifier.from_config(model.get_config())
    assert again.class_weights == weights
    assert again.thresholds is not None


@pytest.mark.parametrize(("kind", "room"), [("word", 8), ("wordpiece", 6)])
def test_tokens_behind_the_last_piece_are_counted(kind, room):
    model = create_classifier(kind, pieces_per_row=3)
    lengths = [0, 3 * room - 1, 3 * room, 3 * room + 1, 90]
    answer = model.classify(tf.constant([text(n) for n in lengths]))
    assert answer["unread"].numpy().tolist() == [0, 0, 0, 1, 90 - 3 * room]
    assert answer["unread"].dtype == tf.int32


def test_saved_as_keras_and_loaded_in_safe_mode(tmp_path):
    texts = tf.constant([*TEXTS, "w1 [MASK] w2"])
    classifier = create_classifier("word", num_ngrams=19)
    classifier.ngrams.assign(fitted_ngrams(classifier.codec, 1))
    classifier.mixture.assign([0.7, 1.3, 0.1])
    for model in (classifier, create_masked_lm("wordpiece")):
        path = tmp_path / f"{model.name}.keras"
        model.save(path)
        loaded = keras.saving.load_model(path, safe_mode=True)
        before, after = model(texts), loaded(texts)
        tf.nest.map_structure(np.testing.assert_array_equal, before, after)


def fitted_ngrams(codec, width):
    """A model of every bigram of two letters that follow each other."""
    size = len(codec.vocabulary)
    first = codec.vocabulary.index("w0")
    keys = [(first + n) * size + first + n + 1 for n in range(19)]
    random = np.random.default_rng(1)
    return ngrams.NGrams(
        np.array(keys, np.int64),
        random.uniform(0.5, 2, len(keys)).astype(np.float32),
        random.normal(size=(len(keys), width)).astype(np.float32),
        random.normal(size=width).astype(np.float32),
    )


@pytest.mark.parametrize(
    ("kind", "labels", "encoder"),
    [
        ("wordpiece", ("bad", "good"), True),
        ("word", ("a", "b", "c"), True),
        ("word", ("bad", "good"), False),
    ],
)
def test_encoder_and_ngrams_are_mixed(kind, labels, encoder):
    model = create_classifier(
        kind, labels=labels, encoder=encoder, num_ngrams=19, pieces_per_row=2
    )
    width = 1 if len(labels) == 2 else len(labels)
    fitted = fitted_ngrams(model.codec, width)
    model.ngrams.assign(fitted)
    weights = [0.7, 1.3] if encoder else [1.3]
    bias = np.linspace(-1, 1, width + 2)[1:-1]
    model.mixture.assign(np.concatenate([weights, bias]))
    texts = ["", "w3 w4", "w3. w4 w3 w4", "w19 w1", " ".join(LETTERS)]

    ids = tokenizer_of(kind).encode(texts)
    room = 2 * model.room
    pieces = [
        (owner, piece)
        for owner, document in enumerate(ids)
        for piece in np.split(document[:room], [model.room])
    ]
    owners, parts = zip(*pieces, strict=True)
    lengths = [*map(len, parts)]
    features = ngrams.features(
        fitted,
        tf.concat(parts, 0),
        np.repeat(np.arange(len(parts)), lengths),
        np.repeat(owners, lengths),
        is_special=model.codec.is_special,
        num_documents=len(texts),
    )
    expected = ngrams.logits(fitted, features)
    found = model.classify(tf.constant(texts))
    assert ("encoder_probabilities" in found) == encoder
    mixed = 1.3 * expected + bias
    if encoder:
        np.testing.assert_allclose(
            found["ngram_probabilities"],
            modeling.probabilities(expected),
            atol=1e-6,
        )
        alone = [trained_on(model, tokenizer_of(kind), one) for one in texts]
        np.testing.assert_allclose(
            found["encoder_probabilities"], alone, atol=1e-5
        )
        logits = np.log(np.asarray(alone))
        logits = logits - logits[:, :1] if width == 1 else logits
        mixed += 0.7 * logits[:, -width:]
    np.testing.assert_allclose(
        found["probabilities"], modeling.probabilities(mixed), atol=1e-5
    )
