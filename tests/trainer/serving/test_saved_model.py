"""A SavedModel answers as the models do, wherever TensorFlow is."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.serving import conftest
from trainer import modeling
from trainer.serving import loading

LABELS = ["bad", "so so", "good"]
SIGNATURES = {"classify", "embed", "explain", "fill_mask"}
LETTERS = conftest.LETTERS
TEXTS = ["", "w1 [MASK] w2", " ".join(LETTERS[:8]), " ".join(LETTERS * 5)]
# What someone runs who has TensorFlow and the directory, and nothing else.
STRANGER = """
import json, sys
from importlib import machinery

class OnlyTheRest:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] not in BLOCKED:
            return machinery.PathFinder.find_spec(name, path, target)

BLOCKED = {"keras", "keras_hub", "tensorflow_text", "tokenizers"}
BLOCKED |= {"configs", "input_pipeline", "trainer"}
sys.meta_path[:] = [machinery.BuiltinImporter, machinery.FrozenImporter,
                    OnlyTheRest]
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
answers = {}
for name, function in model.signatures.items():
    out = function(text=tf.constant(json.loads(sys.argv[2]), tf.string))
    answers[name] = {
        key: tf.strings.as_string(value).numpy().astype(str).tolist()
        if value.dtype == tf.string else value.numpy().tolist()
        for key, value in out.items()
    }
assert not BLOCKED & set(sys.modules)
print(json.dumps(answers))
"""


# Together they use whatever an export can hold.
BERT = {"normalization": "post", "embedding_norm": True, "token_types": True}
OTHER = {"positions": "rotary", "activation": "relu"}


@pytest.fixture(scope="module")
def word(create):
    """(classifier, masked-LM, export directory)"""
    pooling = {"pooling": "mean_max", "hidden_size": 4}
    return create("unicode_word", labels=LABELS, model=OTHER, finetune=pooling)


@pytest.fixture(scope="module")
def wordpiece(create):
    attention = {"pooling": "attention"}
    return create(
        "wordpiece",
        labels=LABELS,
        model=BERT,
        finetune=attention,
        num_ngrams=7,
    )


def arrays(outputs):
    return {
        key: value.numpy().astype(str)
        if value.dtype == tf.string
        else value.numpy()
        for key, value in outputs.items()
    }


@pytest.mark.soak
def test_an_export_of_two_classes_and_whole_documents_loads(create):
    *_, directory = create(
        "word",
        labels=LABELS[:2],
        model={"attend_padding": True, "activation": "gelu_tanh"},
        finetune={"pooling": "max", "packing": "document", "pieces_per_row": 1},
        num_ngrams=7,
    )
    assert {*loading.load(directory).signatures} == SIGNATURES


def expected(classifier, masked_lm, texts):
    texts = tf.constant(texts, tf.string)
    rates = classifier(texts).numpy()
    labels = np.array(LABELS)[rates.argmax(-1)]
    return {
        "classify": {
            **arrays(classifier.classify(texts)),
            "probabilities": rates,
            "label": labels,
            "decision": labels,  # Every text is decided.
            "confidence": rates.max(-1),
        },
        "explain": arrays(modeling.explain(classifier, texts)),
        "fill_mask": arrays(masked_lm(texts)),
        "embed": {"embeddings": masked_lm.embed(texts).numpy()},
    }


def check(found, wanted):
    assert found.keys() == wanted.keys()
    for name, outputs in wanted.items():
        assert found[name].keys() == outputs.keys()
        for key, value in outputs.items():
            one = np.array(found[name][key])
            if value.dtype.kind == "f":
                np.testing.assert_allclose(one, value, atol=1e-5)
            else:
                np.testing.assert_array_equal(one, value)


@pytest.mark.parametrize(
    "kind", ["wordpiece", pytest.param("word", marks=pytest.mark.soak)]
)
def test_a_fresh_process_without_this_project_agrees(kind, request, tmp_path):
    *models, directory = request.getfixturevalue(kind)
    assert {*loading.load(directory).signatures} == SIGNATURES
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-c", STRANGER),
            *(str(directory / loading.FOLDER), json.dumps(TEXTS)),
        ],
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    check(found, expected(*models, TEXTS))


def test_any_number_of_texts(word):
    *models, directory = word
    exported = loading.load(directory)
    for number in (0, 1, 70):
        texts = tf.constant((TEXTS * 20)[:number], tf.string)
        answers = {k: call(texts) for k, call in exported.signatures.items()}
        found = {name: arrays(answer) for name, answer in answers.items()}
        check(found, expected(*models, texts))
    shapes = {
        name: {key: (v.dtype, v.shape[1:]) for key, v in answer.items()}
        for name, answer in answers.items()
    }
    assert shapes == {
        "classify": {
            "label": (tf.string, ()),
            "probabilities": (tf.float32, (3,)),
            "decision": (tf.string, ()),
            "confidence": (tf.float32, ()),
            "unread": (tf.int32, ()),
        },
        "embed": {"embeddings": (tf.float32, (8,))},
        "explain": {
            "words": (tf.string, (100,)),
            "label": (tf.string, ()),
            "against": (tf.string, ()),
            "log_odds": (tf.float32, ()),
            "bias": (tf.float32, ()),
            "encoder": (tf.float32, (100,)),
            "encoder_log_odds": (tf.float32, ()),
        },
        "fill_mask": {
            "count": (tf.int32, ()),
            "probabilities": (tf.float32, (2, 3)),
            "tokens": (tf.string, (2, 3)),
        },
    }
