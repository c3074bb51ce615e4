import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from configs import schema
from input_pipeline import cleaning, tfds_source

_TEXTS = [f"review {i} \u00e9" for i in range(50)]


@pytest.fixture(name="data_dir", scope="module")
def _data_dir(tmp_path_factory):
    """A small data set with every kind of label, stored in four splits."""
    tfds = pytest.importorskip("tensorflow_datasets")
    data_dir = tmp_path_factory.mktemp("tfds")
    examples = [
        {
            "text": text,
            "label": i % 3 - 1,
            "stars": i,
            "maker": f"m{i}",
            "vector": [i, i],
            "topics": [*range(i % 3)],
        }
        for i, text in enumerate(_TEXTS)
    ]
    examples = list(enumerate(examples))
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_reviews",
        version="1.2.3",
        features=tfds.features.FeaturesDict(
            {
                "text": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["neg", "pos"]),
                "stars": tfds.features.Scalar(np.int32),
                "maker": tfds.features.Text(),
                "vector": tfds.features.Tensor(shape=(2,), dtype=np.int64),
                "topics": tfds.features.Sequence(
                    tfds.features.ClassLabel(names=["music", "art"])
                ),
            }
        ),
        split_datasets={
            "train": examples,
            "test": examples[:5],
            "extra": examples[:20],
        },
        data_dir=data_dir,
        disable_shuffling=True,
    )
    return data_dir


@pytest.fixture(autouse=True)
def _environment(request, monkeypatch):
    if "data_dir" in request.fixturenames:
        data_dir = str(request.getfixturevalue("data_dir"))
        monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
    monkeypatch.setattr(tfds_source, "UNIT_EXAMPLES", 8)


def _config(**fields):
    return schema.DataConfig(
        **{"source": "tfds", "name": "tiny_reviews", **fields}
    )


def _read(data, split):
    counts = cleaning.Counts()
    return [
        document
        for unit in tfds_source.list_units(data)
        if unit.split == split
        for document in tfds_source.read(data, unit, counts)
    ]


@pytest.mark.usefixtures("data_dir")
def test_units_are_even_slices_in_order():
    data = _config(unlabeled_split="extra[5:15]")
    units = tfds_source.list_units(data)
    assert units == tfds_source.list_units(data)
    assert list(dict.fromkeys(unit.split for unit in units)) == [
        "train",
        "unlabeled",
        "test",
    ]
    pieces = [piece for unit in units for piece in unit.pieces]
    starts = [0, 7, 14, 21, 28, 35, 42, 50]
    assert [tuple(p) for p in pieces if p.path == "train"] == [
        ("train", start, stop) for start, stop in itertools.pairwise(starts)
    ]
    assert [tuple(p) for p in pieces if p.path == "extra"] == [
        ("extra", 5, 10),
        ("extra", 10, 15),
    ]


@pytest.mark.usefixtures("data_dir")
def test_a_large_file_has_larger_units(monkeypatch):
    monkeypatch.setattr(tfds_source, "_MAX_UNITS_A_FILE", 4)
    units = tfds_source.list_units(_config(test_split=""))
    sizes = [piece.stop - piece.start for (piece,) in (u.pieces for u in units)]
    assert sizes == [12, 13, 12, 13]


@pytest.mark.usefixtures("data_dir")
def test_every_example_once_in_order():
    data = _config(train_split="train[:90%]", unlabeled_split="extra[5:15]")
    train = _read(data, "train")
    assert [d.raw.decode() for d in train] == _TEXTS[:45]
    # -1, which stands for no label, and the two names.
    assert [d.label for d in train[:4]] == ["", "neg", "pos", ""]
    unlabeled = _read(data, "unlabeled")
    assert [d.raw.decode() for d in unlabeled] == _TEXTS[5:15]
    assert {d.label for d in unlabeled} == {""}
    assert len(_read(data, "test")) == 5
    data = _config(
        train_split="extra[:2]+train[-1:]",
        text_field="maker",
        group_field="text",
        test_split="",
    )
    assert _read(data, "train") == [
        (f"m{i}".encode(), ["", "neg", "pos"][i % 3], _TEXTS[i])
        for i in (0, 1, 49)
    ]
    assert {unit.split for unit in tfds_source.list_units(data)} == {"train"}


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(
    ("label_field", "label"),
    [("", ""), ("absent", ""), ("stars", "3"), ("maker", "m3"), ("label", "")],
)
def test_labels(label_field, label):
    data = _config(label_field=label_field, train_split="train[3:4]")
    assert _read(data, "train") == [(_TEXTS[3].encode(), label, "")]


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize("kind", ["auto", "many"])
def test_a_sequence_of_labels_is_a_set(kind):
    data = _config(label_field="topics", label_kind=kind)
    found = [document.label for document in _read(data, "train")]
    assert found[:4] == ["[]", '["music"]', '["art", "music"]', "[]"]
    assert len(found) == 50


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_split": "trian"}, r"train_split='trian'.*train \(50\), test"),
        ({"train_split": "train[60:]"}, r"60:50\] incompatible"),
        ({"train_split": ""}, r"data\.train_split=''"),
        (
            {"unlabeled_split": "test[:1]"},
            "unlabeled_split and data.test_split",
        ),
        ({"train_split": "train+test[4:]"}, "train_split and data.test_split"),
        ({"test_split": "tset"}, r"data\.test_split='tset'"),
        ({"text_field": "body"}, r"fields are .*texts among them maker, text"),
        ({"text_field": "stars"}, r"'stars' is no text"),
        ({"label_field": "vector"}, r"'vector' .* no single value"),
        ({"group_field": "topics"}, r"'topics' .* is no single value; "),
        (
            {"label_field": "topics", "label_kind": "one"},
            r"'topics' .* is no single value; ",
        ),
        ({"label_kind": "many"}, r"'label' .* is no sequence of labels"),
        ({"group_field": "who"}, r"group_field='who' is no field .*maker"),
        ({"name": "tiny_review"}, "no known data set"),
        ({"name": "tiny_reviews:9.9.9"}, "9.9.9"),
        ({"name": "imdb_revews"}, "imdb_reviews comes close"),
        ({"name": "a b"}, "data.name=a b"),
    ],
)
def test_wrong_names(fields, message):
    with pytest.raises(ValueError, match=message):
        tfds_source.list_units(_config(**fields))


@pytest.mark.usefixtures("data_dir")
def test_fingerprint():
    fingerprint = tfds_source.fingerprint(_config())
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert fingerprint["name"] == "tiny_reviews/1.2.3"
    assert fingerprint["specs"] == {"train": "train", "test": "test"}
    assert fingerprint["splits"]["extra"]["shard_lengths"] == [20]
    assert fingerprint["splits"]["extra"]["num_bytes"] > 0


def test_a_damaged_data_set_is_an_error(data_dir, tmp_path, monkeypatch):
    shutil.copytree(data_dir, tmp_path / "copy")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "copy"))
    (path,) = (tmp_path / "copy").rglob("*train.tfrecord*")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged: .*prepare the data set"):
        _read(_config(test_split=""), "train")


def _fails_without_network(name):
    with pytest.raises(ValueError, match="Connect .*`tfds build "):
        tfds_source.list_units(_config(name=name))


def test_without_network_it_fails_at_once(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    # A resolver that never answers; TFDS alone waits for minutes.
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(60))
    start = time.monotonic()
    _fails_without_network("imdb_reviews")
    assert time.monotonic() - start < 5
    monkeypatch.setattr(tfds_source, "_NETWORK_SECONDS", 0.1)
    _fails_without_network("huggingface:imdb")
    assert not list(tmp_path.iterdir())


def test_a_failing_download_is_an_error(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds_source, "_answers", lambda _: True)

    def fail(_):
        raise tfds.download.DownloadError("HTTP code: 404.")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match=r"cannot be prepared: HTTP code: 404"):
        tfds_source.list_units(_config(name="imdb_reviews"))


def test_listing_imports_no_tensorflow_and_reading_says_nothing(data_dir):
    code = """
import sys
from configs import schema
from input_pipeline import cleaning, sources
assert "tensorflow_datasets" not in sys.modules
data = schema.DataConfig(source="tfds", name="tiny_reviews")
units = sources.list_units(data)
sources.fingerprint(data, units)
assert "tensorflow" not in sys.modules
assert len(list(sources.read(data, units[0], cleaning.Counts()))) == 50
"""
    environment = {**os.environ, "TFDS_DATA_DIR": str(data_dir)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
