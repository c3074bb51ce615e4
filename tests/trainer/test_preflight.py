"""What is refused before TensorFlow is imported."""

import os
import subprocess
import sys
import time

import pytest

from trainer import preflight


def test_a_folder_to_start_from_that_is_missing_is_named(tiny, tmp_path):
    preflight.check(tiny({"init_from": str(tmp_path)}))
    # A store is asked later: that takes TensorFlow.
    preflight.check(tiny({"init_from": "gs://bucket/run"}))
    config = tiny({"init_from": str(tmp_path / "typo")})
    with pytest.raises(ValueError, match="init_from=.*typo is no folder"):
        preflight.check(config)


def test_a_data_set_that_cannot_be_had_fails_without_retrying(tmp_path):
    # A proxy that nobody listens at, so that it fails with a network too.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "trainer.main", "--config=configs/imdb.py"],
        capture_output=True,
        text=True,
        env={**os.environ, **nowhere, "TFDS_DATA_DIR": str(tmp_path)},
    )
    seconds = time.monotonic() - start
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"TFDS_DATA_DIR={tmp_path}" in result.stderr
    assert "Connect to a network; or prepare" in result.stderr
    # 1 on an idle machine; TensorFlow Datasets alone retries for a minute.
    assert seconds < 30
