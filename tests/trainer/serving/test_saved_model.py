"""Tests of trainer/serving/saved_model.py."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import storage
from configs import schema
from trainer import modeling
from trainer.serving import loading, saved_model

LETTERS = [f"w{n}" for n in range(20)]
VOCABULARIES = {
    "word": ["", "[UNK]", *LETTERS, "[mask]"],
    "wordpiece": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS],
}
LABELS = ["bad", "so so", "good"]
LENGTH = 8
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

BLOCKED = {*sys.argv[3:], "keras_hub", "configs", "input_pipeline", "trainer"}
sys.meta_path[:] = [machinery.BuiltinImporter, machinery.FrozenImporter,
                    OnlyTheRest]
import tensorflow as tf
if "tensorflow_text" not in BLOCKED:
    import tensorflow_text
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


@pytest.fixture(scope="module")
def create(tmp_path_factory):
    """A function: kind -> (classifier, masked-LM, export directory)."""
    made = {}

    def make(kind):
        if kind in made:
            return made[kind]
        common = {
            "kind": kind,
            "vocabulary": VOCABULARIES[kind],
            "sequence_length": LENGTH,
            "model": dataclasses.asdict(
                schema.ModelConfig(
                    num_layers=1,
                    hidden_size=8,
                    num_heads=2,
                    intermediate_size=8,
                    initializer_range=0.5,
                )
            ),
        }
        classifier = modeling.TextClassifier(
            **common,
            labels=LABELS,
            finetune=dataclasses.asdict(schema.FinetuneConfig()),
        )
        masked_lm = modeling.TextMaskedLM(**common, max_masks=2, top_k=3)
        directory = tmp_path_factory.mktemp(kind) / "export"
        facts = {"format": loading.FORMAT, "tokenizer": kind}
        with storage.new_directory(directory, facts=facts) as temporary:
            facts["signatures"] = saved_model.save(
                temporary, classifier=classifier, masked_lm=masked_lm
            )
        made[kind] = classifier, masked_lm, directory
        return made[kind]

    return make


def expected(classifier, masked_lm, texts):
    texts = tf.constant(texts, tf.string)
    rates = classifier(texts).numpy()
    filled = {k: v.numpy() for k, v in masked_lm(texts).items()}
    return {
        "classify": {
            "probabilities": rates,
            "label": np.array(LABELS)[rates.argmax(-1)],
            "unread": classifier.classify(texts)["unread"].numpy(),
        },
        "fill_mask": {**filled, "tokens": filled["tokens"].astype(str)},
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


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_a_fresh_process_without_this_project_agrees(kind, create, tmp_path):
    *models, directory = create(kind)
    # tensorflow_text imports Keras by itself.
    blocked = ["tensorflow_text", "keras"] if kind == "word" else []
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-c", STRANGER),
            *(str(directory / loading.FOLDER), json.dumps(TEXTS)),
            *blocked,
        ],
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    check(found, expected(*models, TEXTS))


@pytest.mark.parametrize("number", [0, 1, 3, 70])
def test_any_number_of_texts(number, create):
    *models, directory = create("word")
    texts = (TEXTS * 20)[:number]
    exported = loading.load(directory)
    found = {
        name: {
            key: value.numpy().astype(str)
            if value.dtype == tf.string
            else value.numpy()
            for key, value in call(tf.constant(texts, tf.string)).items()
        }
        for name, call in exported.signatures.items()
    }
    check(found, expected(*models, texts))


def test_dtypes_and_shapes_are_those_promised(create):
    exported = loading.load(create("word")[2])
    shapes = {
        name: {key: (v.dtype, v.shape) for key, v in call(TEXTS).items()}
        for name, call in exported.signatures.items()
    }
    assert shapes == {
        "classify": {
            "label": (tf.string, (4,)),
            "probabilities": (tf.float32, (4, 3)),
            "unread": (tf.int32, (4,)),
        },
        "embed": {"embeddings": (tf.float32, (4, 8))},
        "fill_mask": {
            "count": (tf.int32, (4,)),
            "probabilities": (tf.float32, (4, 2, 3)),
            "tokens": (tf.string, (4, 2, 3)),
        },
    }


@pytest.mark.parametrize("half", ["classifier", "masked_lm"])
def test_one_half_alone(half, create, tmp_path):
    classifier, masked_lm, _ = create("word")
    halves = {"classifier": classifier, "masked_lm": masked_lm}
    signatures = saved_model.save(
        tmp_path,
        **{name: m if name == half else None for name, m in halves.items()},
    )
    other = "classify" if half == "classifier" else "fill_mask"
    assert signatures == sorted(["embed", other])


def test_word_pieces_need_tensorflow_text(create, monkeypatch):
    *_, directory = create("wordpiece")
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    with pytest.raises(ValueError, match="install it"):
        loading.load(directory)
