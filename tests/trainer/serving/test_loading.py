"""Tests of trainer/serving/loading.py; what it loads: test_saved_model.py."""

import subprocess
import sys

import pytest

import storage
from trainer.serving import loading


def damage(directory, name):
    copy = directory / name
    copy.write_bytes(copy.read_bytes()[:-1] + b"!")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("saved_model/saved_model.pb", damage, r"saved_model\.pb .*sha256"),
        (
            "saved_model/saved_model.pb",
            lambda directory, name: (directory / name).unlink(),
            r"saved_model\.pb is missing",
        ),
        ("manifest.json", damage, r"manifest\.json is damaged"),
        (
            "manifest.json",
            lambda directory, name: (directory / name).unlink(),
            r"manifest\.json is missing",
        ),
    ],
)
def test_a_damaged_export_is_refused(tmp_path, name, change, message):
    directory = tmp_path / "export"
    with storage.new_directory(directory, facts={"format": 1}) as temporary:
        (temporary / "saved_model").mkdir()
        (temporary / "saved_model" / "saved_model.pb").write_bytes(b"graph")
    change(directory, name)
    with pytest.raises(ValueError, match=message) as error:
        loading.load(directory)
    assert "--mode=export" in str(error.value)


def test_another_format_is_refused(tmp_path):
    with storage.new_directory(tmp_path / "export", facts={"format": 0}):
        pass
    with pytest.raises(ValueError, match="no export of format 1, but 0"):
        loading.load(tmp_path / "export")


def test_no_model_of_ours_is_imported():
    code = (
        "import sys; from trainer.commands import predict;"
        "names = {'keras_hub', 'trainer.modeling', 'input_pipeline.strings'};"
        "assert not names & set(sys.modules), names & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
