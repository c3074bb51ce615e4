"""Tests of trainer/modeling/interchange/huggingface.py.

Those that need transformers run it in another interpreter: the one that
CLOZE_HF_PYTHON names, else that of .venv-huggingface, which `make test` makes.
"""

import dataclasses
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
from tests.input_pipeline import test_wordpiece
from trainer import modeling
from trainer.modeling import interchange

ROOT = pathlib.Path(__file__).resolve().parents[4]
WIDTH, INNER, LENGTH = 12, 20, 10
# A part of what transformers write, as an example of names and shapes.
SHAPES = {
    "bert.embeddings.word_embeddings.weight": (16, WIDTH),
    "bert.encoder.layer.1.attention.self.query.weight": (WIDTH, WIDTH),
    "bert.encoder.layer.0.intermediate.dense.weight": (INNER, WIDTH),
    "bert.encoder.layer.0.output.dense.weight": (WIDTH, INNER),
    "cls.predictions.bias": (16,),
}
# What they have and we do not.
NOT_CARRIED = {
    "bert.embeddings.position_ids": np.arange(LENGTH)[np.newaxis],
    "bert.pooler.dense.weight": np.ones([WIDTH, WIDTH], np.float32),
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


def test_what_is_carried_comes_back_bit_equal(
    create, folder, carried, tmp_path, vocabulary
):
    assert SHAPES.items() <= {k: v.shape for k, v in carried.items()}.items()
    theirs = folder(carried | NOT_CARRIED)
    initial = interchange.read_bert(theirs)
    assert initial.vocabulary == vocabulary
    model = create(seed=1, **dataclasses.asdict(initial.model_config))
    given = initial.read_weights().assign(model.variables)
    assert set(given.arrays) == {v.path for v in model.variables}
    assert given.dropped == sorted(
        name.removeprefix("bert.") for name in NOT_CARRIED
    )
    ours = tmp_path / "ours"
    interchange.write_huggingface(ours, model, initial.vocabulary)
    written = safetensors.numpy.load_file(ours / "model.safetensors")
    assert written.keys() == carried.keys()
    for name, tensor in written.items():
        assert tensor.dtype == np.float32
        assert tensor.tobytes() == carried[name].tobytes(), name
    assert interchange.read_bert(ours).model_config == initial.model_config
    for name in ("special_tokens_map.json", "vocab.txt"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_several_files_of_half_precision_are_widened(folder, carried, dtype):
    path = folder({})
    (path / "model.safetensors").unlink()
    rounded = {k: tf.cast(x, dtype).numpy() for k, x in carried.items()}
    names = sorted(rounded)
    for number, part in enumerate((names[:20], names[20:]), start=1):
        safetensors.numpy.save_file(
            {name: rounded[name] for name in part},
            path / f"model-0000{number}-of-00002.safetensors",
        )
    found = interchange.read_bert(path).read_weights().arrays
    assert {array.dtype for array in found.values()} == {np.dtype("f4")}
    np.testing.assert_array_equal(
        found["encoder/token_embedding/embeddings"],
        rounded["bert.embeddings.word_embeddings.weight"].astype("f4"),
    )


@pytest.mark.parametrize("theirs", ["gelu_new", "gelu_pytorch_tanh"])
def test_the_activation_is_the_same_function(folder, theirs):
    initial = interchange.read_bert(folder(hidden_act=theirs))
    assert initial.model_config.activation == "gelu_tanh"


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
    (path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(ValueError, match="no WordPiece vocabulary"):
        interchange.read_bert(path)


@pytest.mark.parametrize(
    ("settings", "normalizer", "lowercase"),
    [
        ({}, None, True),
        ({"do_lower_case": False}, None, False),
        ({"do_lower_case": False}, {"lowercase": True}, False),
        ({}, {"lowercase": False, "strip_accents": None}, False),
        ({"do_lower_case": True, "strip_accents": False}, None, None),
        ({}, {"lowercase": False, "strip_accents": True}, None),
        ({"tokenize_chinese_chars": False}, None, None),
    ],
)
def test_how_their_tokenizer_treats_case(
    folder, settings, normalizer, lowercase
):
    path = folder()
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "tokenizer.json").write_text(json.dumps({"normalizer": normalizer}))
    if lowercase is None:
        with pytest.raises(ValueError, match="is not BERT's: do_lower_case"):
            interchange.read_bert(path)
    else:
        assert interchange.read_bert(path).lowercase == lowercase


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
        ({"is_decoder": True}, "is_decoder=True"),
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


@pytest.fixture(scope="module")
def interpreter():
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
    answers = {
        "ids": inputs["input_ids"].tolist(),
        "logits": logits.tolist(),
        "problems": [str(v) for v in report.values() if v],
    }
    json.dump(answers, open(folder + "/answers", "w"))
"""
TEXTS = ["The film [MASK] good.", "Badly, Unknown É films"]


# Folders with texts: writes the tokens of each text beside them.
_THEIR_TOKENS = """
import json, sys
import transformers
transformers.logging.set_verbosity_error()
for folder in sys.argv[1:]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = [tokenizer.tokenize(t) for t in json.load(open(folder + "/texts"))]
    json.dump(tokens, open(folder + "/tokens", "w"))
"""


def test_transformers_split_awkward_text_in_the_same_way(
    interpreter, create, tmp_path
):
    texts = test_wordpiece.awkward()
    vocabulary = test_wordpiece.vocabulary_of(texts)
    folders = {tmp_path / "uncased": True, tmp_path / "cased": False}
    for folder, lowercase in folders.items():
        interchange.write_huggingface(
            folder, create(), test_wordpiece.SPECIAL, lowercase=lowercase
        )
        (folder / "vocab.txt").write_text("\n".join(vocabulary), newline="\n")
        (folder / "texts").write_text(json.dumps(texts))
    subprocess.run(
        [interpreter, "-c", _THEIR_TOKENS, *folders],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    for folder, lowercase in folders.items():
        own = tokenizer.WordPieceTokenizer(vocabulary, lowercase=lowercase)
        theirs = json.loads((folder / "tokens").read_text())
        for text, ids, tokens in zip(
            texts, own.encode(texts), theirs, strict=True
        ):
            assert [vocabulary[i] for i in ids] == tokens, text


def test_transformers_give_the_same_logits(
    interpreter, create, tmp_path, vocabulary
):
    # Not the first, as in some vocabularies of others.
    vocabulary.insert(3, vocabulary.pop(0))
    own = tokenizer.WordPieceTokenizer(vocabulary)
    models = {
        tmp_path / name: create(activation=name, layer_norm_epsilon=1e-3)
        for name in ("gelu", "gelu_tanh")
    }
    for folder, model in models.items():
        interchange.write_huggingface(folder, model, vocabulary)
    subprocess.run(
        [interpreter, "-c", _THEIR_ANSWERS, json.dumps(TEXTS), *models],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    for folder, model in models.items():
        theirs = json.loads((folder / "answers").read_text())
        assert theirs["problems"] == []
        ids = np.array(theirs["ids"])
        words = [" ".join(vocabulary[i] for i in row) for row in ids]
        assert words == [
            "[CLS] the film [MASK] good . [SEP] [PAD] [PAD]",
            "[CLS] bad ##ly , [UNK] [UNK] film ##s [SEP]",
        ]
        for text, row in zip(TEXTS, ids, strict=True):
            prompt = own.encode_prompt(text)
            np.testing.assert_array_equal(row[: len(prompt)], prompt)
        batch = modeling.features(ids, pad_id=vocabulary.index("[PAD]"))
        everywhere = tf.zeros_like(batch["token_ids"]) + tf.range(ids.shape[1])
        ours = model({**batch, "mask_positions": everywhere}).numpy()
        real = batch["segment_ids"].numpy() > 0
        assert np.abs(ours - np.array(theirs["logits"]))[real].max() < 1e-4
