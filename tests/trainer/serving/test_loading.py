"""What is refused before an export is loaded."""

import subprocess
import sys

import pytest

import storage
from trainer.serving import loading


def test_a_damaged_export_and_another_format_are_refused(tmp_path):
    directory = tmp_path / "export"
    with storage.new_directory(directory, facts={"format": 0}) as temporary:
        (temporary / "saved_model").mkdir()
        (temporary / "saved_model" / "saved_model.pb").write_bytes(b"graph")
    with pytest.raises(ValueError, match="no export of format 1, but 0"):
        loading.load(directory)
    (directory / "saved_model" / "saved_model.pb").write_bytes(b"grapH")
    with pytest.raises(ValueError, match=r"saved_model\.pb .*--mode=export"):
        loading.load(directory)
    (directory / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"manifest\.json is missing.*export"):
        loading.load(directory)


def test_no_model_of_ours_is_imported():
    code = (
        # Importing TensorFlow takes long, and its names are enough.
        "import sys; from unittest import mock;"
        "fakes = 'keras', 'tensorflow', 'tensorflow.core.protobuf';"
        "sys.modules.update(dict.fromkeys(fakes, mock.MagicMock()));"
        "from trainer.commands import predict;"
        "names = {'keras_hub', 'trainer.modeling', 'input_pipeline.strings'};"
        "assert not names & set(sys.modules), names & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
