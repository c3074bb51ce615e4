"""Tests of trainer/modeling/interchange/huggingface.py.

Those that need transformers run it in another interpreter: the one that
CLOZE_HF_PYTHON names, else that of .venv-huggingface, which `make test` makes.
"""

import json
import os
import pathlib
import pickle
import subprocess

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from input_pipeline import tokenizer
from trainer import modeling
from trainer.modeling import interchange

ROOT = pathlib.Path(__file__).resolve().parents[4]
WIDTH, INNER, LENGTH = 12, 20, 10
CONFIG = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": LENGTH,
    "type_vocab_size": 2,
}


# A part of what transformers write, as an example of names and shapes.
SHAPES = {
    "bert.embeddings.word_embeddings.weight": (16, WIDTH),
    "bert.embeddings.LayerNorm.bias": (WIDTH,),
    "bert.encoder.layer.1.attention.self.query.weight": (WIDTH, WIDTH),
    "bert.encoder.layer.1.attention.output.LayerNorm.weight": (WIDTH,),
    "bert.encoder.layer.0.intermediate.dense.weight": (INNER, WIDTH),
    "bert.encoder.layer.0.output.dense.weight": (WIDTH, INNER),
    "cls.predictions.transform.dense.weight": (WIDTH, WIDTH),
    "cls.predictions.bias": (16,),
}


def _not_carried():
    return {
        "bert.embeddings.position_ids": np.arange(LENGTH)[np.newaxis],
        "bert.pooler.dense.weight": np.ones([WIDTH, WIDTH], np.float32),
        "bert.pooler.dense.bias": np.ones([WIDTH], np.float32),
        "cls.seq_relationship.weight": np.ones([2, WIDTH], np.float32),
    }


@pytest.fixture
def folder(create, tmp_path, vocabulary):
    """A function: tensors and changes of config.json -> a folder with them."""

    path = tmp_path / "theirs"
    model = create(activation="gelu")
    interchange.write_huggingface(path, model, vocabulary)
    written = json.loads((path / "config.json").read_text())

    def make(tensors=None, **config):
        (path / "config.json").write_text(json.dumps(written | config))
        if tensors is not None:
            safetensors.numpy.save_file(tensors, path / "model.safetensors")
        return path

    return make


@pytest.fixture
def carried(folder):
    """The tensors that we write."""
    return safetensors.numpy.load_file(folder() / "model.safetensors")


def _model(initial):
    """Our model with the weights of a folder, and what was dropped."""
    model = modeling.create_masked_lm(
        initial.model_config,
        vocabulary_size=len(initial.vocabulary),
        sequence_length=initial.sequence_length,
    )
    given = initial.read_weights().assign(model.variables)
    assert set(given.arrays) == {v.path for v in model.variables}
    return model, given.dropped


def test_what_is_carried_comes_back_bit_equal(folder, carried, tmp_path):
    assert SHAPES.items() <= {k: v.shape for k, v in carried.items()}.items()
    theirs = folder(carried | _not_carried())
    initial = interchange.read_bert(theirs)
    model, dropped = _model(initial)
    assert dropped == [
        "cls.seq_relationship.weight",
        "embeddings.position_ids",
        "pooler.dense.bias",
        "pooler.dense.weight",
    ]
    ours = tmp_path / "ours"
    interchange.write_huggingface(ours, model, initial.vocabulary)
    written = safetensors.numpy.load_file(ours / "model.safetensors")
    assert written.keys() == carried.keys()
    for name, tensor in written.items():
        assert tensor.dtype == np.float32
        assert tensor.tobytes() == carried[name].tobytes(), name
    config = json.loads((ours / "config.json").read_text())
    assert {k: config[k] for k in CONFIG} == CONFIG
    assert config["pad_token_id"] == initial.vocabulary.index("[PAD]")
    assert (ours / "vocab.txt").read_bytes() == (
        theirs / "vocab.txt"
    ).read_bytes()
    again = interchange.read_bert(ours)
    assert again.model_config == initial.model_config
    assert again.vocabulary == initial.vocabulary
    for path, array in again.read_weights().arrays.items():
        value = next(v for v in model.variables if v.path == path)
        np.testing.assert_array_equal(array, value)


def test_names_without_prefix_and_of_old(folder, carried):
    expected = interchange.read_bert(folder(carried)).read_weights()
    old = {
        name.removeprefix("bert.")
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in carried.items()
    }
    table = carried["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.weight"] = table
    old["cls.predictions.decoder.bias"] = old.pop("cls.predictions.bias")
    found = interchange.read_bert(folder(old)).read_weights()
    assert found.dropped == expected.dropped == []
    for path, array in expected.arrays.items():
        np.testing.assert_array_equal(array, found.arrays[path])
    encoder = {k: v for k, v in old.items() if not k.startswith("cls.")}
    found = interchange.read_bert(folder(encoder)).read_weights()
    assert set(found.arrays) == {
        path for path in expected.arrays if path.startswith("encoder/")
    }


def test_several_files_and_half_precision(folder, carried):
    expected = interchange.read_bert(folder(carried)).read_weights().arrays
    path = folder({})
    (path / "model.safetensors").unlink()
    names = sorted(carried)
    for number, part in enumerate((names[:20], names[20:]), start=1):
        safetensors.numpy.save_file(
            {name: carried[name].astype(np.float16) for name in part},
            path / f"model-0000{number}-of-00002.safetensors",
        )
    found = interchange.read_bert(path).read_weights().arrays
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-6)


def test_bfloat16_is_widened(folder, carried):
    rounded = {
        name: tf.cast(tensor, tf.bfloat16).numpy()
        for name, tensor in carried.items()
    }
    found = interchange.read_bert(folder(rounded)).read_weights().arrays
    table = rounded["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(
        found["encoder/token_embedding/embeddings"], table.astype(np.float32)
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
    ],
)
def test_the_activation_is_the_same_function(folder, tmp_path, theirs, ours):
    initial = interchange.read_bert(folder(hidden_act=theirs))
    assert initial.model_config.activation == ours
    path = tmp_path / "again"
    interchange.write_huggingface(path, _model(initial)[0], initial.vocabulary)
    written = json.loads((path / "config.json").read_text())["hidden_act"]
    assert written == {"gelu": "gelu", "gelu_tanh": "gelu_new"}[ours]


def test_the_vocabulary_of_tokenizer_json(folder, vocabulary):
    path = folder()
    (path / "vocab.txt").unlink()
    content = {
        "model": {"vocab": {t: n for n, t in enumerate(vocabulary)}},
        "added_tokens": [{"content": "[PAD]", "id": 0}],
        "normalizer": {"lowercase": True},
    }
    (path / "tokenizer.json").write_text(json.dumps(content))
    assert interchange.read_bert(path).vocabulary == vocabulary
    content["normalizer"]["lowercase"] = False
    (path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="keeps upper case"):
        interchange.read_bert(path)
    (path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(ValueError, match="no WordPiece vocabulary"):
        interchange.read_bert(path)


class _Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_pickle_is_refused_and_not_run(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = folder()
    bomb = pickle.dumps(_Bomb())
    (path / "model.safetensors").write_bytes(bomb)
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        interchange.read_bert(path).read_weights()
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="only as pytorch_model.bin.*refused"):
        interchange.read_bert(path)
    (path / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="model.safetensors is missing"):
        interchange.read_bert(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "another architecture, 'roberta'"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"type_vocab_size": 3}, "type_vocab_size=3"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"hidden_size": None}, "does not describe a BERT"),
        ({"vocab_size": 99}, "holds 16 tokens, but .* 99 rows"),
    ],
)
def test_another_model_is_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        interchange.read_bert(folder(**changes))


def test_weights_that_do_not_fit_the_config(folder, carried):
    tensors = dict(carried)
    path = folder(tensors, intermediate_size=INNER + 1)
    with pytest.raises(ValueError, match=r"intermediate.dense.weight .*shape"):
        interchange.read_bert(path).read_weights()
    tensors.pop("bert.encoder.layer.1.attention.self.key.bias")
    with pytest.raises(ValueError, match="layer.1.attention.self.key.bias"):
        interchange.read_bert(folder(tensors)).read_weights()
    tensors = dict(carried)
    tensors["cls.predictions.decoder.weight"] = np.ones([16, WIDTH], "f4")
    with pytest.raises(ValueError, match="not its token embedding"):
        interchange.read_bert(folder(tensors)).read_weights()


def test_an_upper_case_vocabulary_is_refused(folder):
    path = folder()
    (path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(ValueError, match="keeps upper case"):
        interchange.read_bert(path)


def test_another_shape_or_vocabulary_is_not_written(
    create, tmp_path, vocabulary
):
    with pytest.raises(ValueError, match=r"cannot become .*pre \(BERT: post"):
        interchange.write_huggingface(
            tmp_path / "x", create(normalization="pre"), vocabulary
        )
    words = ["", "[UNK]", *(f"w{n}" for n in range(14)), "[mask]"]
    with pytest.raises(ValueError, match="no WordPiece vocabulary"):
        interchange.write_huggingface(tmp_path / "x", create(), words)
    assert not (tmp_path / "x").exists()


def _interpreter():
    """A Python with transformers; skips the test where there is none."""
    path = os.environ.get("CLOZE_HF_PYTHON") or str(
        ROOT / ".venv-huggingface" / "bin" / "python"
    )
    try:
        subprocess.run(
            [path, "-c", "import torch, transformers"],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"The Hugging Face folder is NOT TESTED: {error}")
    return path


# Texts, then folders: writes what transformers make of the one in the others.
_THEIR_ANSWERS = """
import json, sys
import torch, transformers
transformers.logging.set_verbosity_error()
texts = json.loads(sys.argv[1])
for folder in sys.argv[2:]:
    model, report = transformers.BertForMaskedLM.from_pretrained(
        folder, output_loading_info=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs).logits
    fill = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)
    answers = {
        "ids": inputs["input_ids"].tolist(),
        "logits": logits.tolist(),
        "fill_ins": [(a["token"], a["score"]) for a in fill(texts[0], top_k=3)],
        "report": {k: sorted(map(str, v)) for k, v in report.items()},
    }
    json.dump(answers, open(folder + "/answers", "w"))
"""


TEXTS = ["The film [MASK] good.", "Badly, Unknown É films"]
ACTIVATIONS = ("gelu", "gelu_tanh")


def test_transformers_give_the_same_logits(create, tmp_path, vocabulary):
    interpreter = _interpreter()
    # Not the first, as in some vocabularies of others.
    vocabulary.insert(3, vocabulary.pop(0))
    models = {
        str(tmp_path / name): create(activation=name, layer_norm_epsilon=1e-3)
        for name in ACTIVATIONS
    }
    for folder, model in models.items():
        path = pathlib.Path(folder)
        interchange.write_huggingface(path, model, vocabulary)
    subprocess.run(
        [interpreter, "-c", _THEIR_ANSWERS, json.dumps(TEXTS), *models],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    for folder, model in models.items():
        answers = json.loads((pathlib.Path(folder) / "answers").read_text())
        _assert_same_answers(answers, model, vocabulary)


def _assert_same_answers(theirs, model, vocabulary):
    """Asserts equal tokens, logits and fill-ins."""
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert theirs["report"][problem] == []
    ids = np.array(theirs["ids"])
    words = [" ".join(vocabulary[i] for i in row) for row in ids]
    assert words[0] == "[CLS] the film [MASK] good . [SEP] [PAD] [PAD]"
    assert words[1] == "[CLS] bad ##ly , [UNK] [UNK] film ##s [SEP]"
    own = tokenizer.WordPieceTokenizer(vocabulary)
    for text, row in zip(TEXTS, ids, strict=True):
        prompt = own.encode_prompt(text)
        np.testing.assert_array_equal(row[: len(prompt)], prompt)
    batch = modeling.features(ids, pad_id=vocabulary.index("[PAD]"))
    everywhere = tf.zeros_like(batch["token_ids"]) + tf.range(ids.shape[1])
    ours = model({**batch, "mask_positions": everywhere}).numpy()
    real = batch["segment_ids"].numpy() > 0
    difference = np.abs(ours - np.array(theirs["logits"]))[real].max()
    print(f"largest difference of the logits {difference:.1e}")
    assert difference < 1e-4
    best = tf.math.top_k(tf.nn.softmax(ours[0, 3]), 3)
    tokens, scores = zip(*theirs["fill_ins"], strict=True)
    np.testing.assert_array_equal(tokens, best.indices)
    np.testing.assert_allclose(scores, best.values, atol=1e-5)
