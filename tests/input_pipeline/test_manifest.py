import numpy as np
import pytest
import tensorflow as tf

import storage
from input_pipeline import blocks, manifest, stream, tokenizer
from tests import bucket as store

LENGTH = 8


def _create(path, change=lambda facts: None):
    """A directory as `prepare` writes it; `change` edits its manifest."""
    facts = {"fingerprint": "abc", "report": {"read": {}}}
    words = tokenizer.WordTokenizer(["", "[UNK]", "naïve", "cat", "[mask]"])
    with storage.new_directory(path, facts=facts) as temporary:
        words.save(temporary)
        roles = {}
        for role, num_rows in (("train", 7), ("validation", 3)):
            writer = blocks.BlockWriter(temporary, role, 2)
            writer.write(np.full([num_rows, LENGTH], 2 + 2**15, "<u2"))
            roles[role] = {
                **writer.close(),
                "num_documents": 10 * num_rows,
                "num_tokens": 100 * num_rows,
            }
        facts |= {
            "sequence_length": LENGTH,
            "dtype": "<u2",
            "rows_per_block": 2,
            "roles": roles,
        }
        change(facts)
    return path


@pytest.fixture(name="directory")
def _directory(tmp_path):
    return _create(tmp_path / "prepared")


FILES = (
    "manifest.json",
    "vocabulary.json",
    "train-00000.tfrecord",
    "validation-00000.tfrecord",
)


def _flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("length", "rows", "per_window"),
    [(1, 16_384, 1), (8, 2048, 1), (256, 64, 32), (16_384, 1, 2048)],
)
def test_blocks_and_windows_follow_from_the_length(
    tmp_path, length, rows, per_window
):
    assert manifest.rows_per_block(length) == rows
    assert manifest.rows_per_block(2 * 16_384) == 1
    directory = _create(
        tmp_path / "a", lambda facts: facts.update(rows_per_block=rows)
    )
    prepared = manifest.open_prepared(directory)
    assert prepared.blocks_per_window == per_window


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_named_with_a_remedy(directory, name):
    path = directory / name
    good = path.read_bytes()
    for place in (0, len(good) - 1):
        _flip(path, place)
        with pytest.raises(
            storage.DamagedError, match=f"{name}.*Delete {directory}"
        ):
            manifest.open_prepared(directory)
        path.write_bytes(good)
    path.unlink()
    with pytest.raises(storage.DamagedError, match=f"{name} is missing"):
        manifest.open_prepared(directory)


def test_of_large_directories_the_shards_are_checked_as_they_are_read(
    directory, monkeypatch
):
    monkeypatch.setattr(manifest, "_FULL_CHECK_BYTES", 0)
    manifest.open_prepared(directory)
    _flip(directory / "train-00000.tfrecord", 20)
    prepared = manifest.open_prepared(directory)
    with pytest.raises(tf.errors.DataLossError):
        list(
            stream.training_rows(
                prepared, seed=0, first_step=0, global_batch_size=1
            ).take(7)
        )
    # Of the vocabulary nobody else would notice.
    path = directory / "vocabulary.json"
    text = path.read_text()
    path.write_text(text.replace("cat", "hat"))
    with pytest.raises(storage.DamagedError, match="vocabulary.json"):
        manifest.open_prepared(directory)


def test_prepared_rows_go_to_a_store_once(bucket, tmp_path):
    def write(temporary):
        written.append(temporary)
        near = _create(tmp_path / str(len(written)))
        facts = storage.read_manifest(near)
        for name in facts.pop("files"):
            (near / name).rename(temporary / name)
        return facts

    written = []
    prepared_dir = "gs://bucket/prepared"
    bucket.changes_left = 3
    with pytest.raises(store.GoneError):
        manifest.made_once(prepared_dir, {"a": 1}, write)
    bucket.changes_left = None
    for _ in range(2):
        directory = manifest.made_once(prepared_dir, {"a": 1}, write)
    assert len(written) == 2
    prepared = manifest.open_prepared(str(directory))
    # TensorFlow reads them there.
    assert prepared.roles["train"].files == (
        f"gs://bucket/prepared/{directory.name}/train-00000.tfrecord",
    )
    assert prepared.tokenizer.vocabulary[2] == "naïve"
    bucket.objects[f"{directory}/train-00000.tfrecord"] += b"x"
    with pytest.raises(storage.DamagedError, match="gs://.*Delete gs://bucket"):
        manifest.open_prepared(directory)
