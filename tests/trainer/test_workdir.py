"""A workdir says what it was started with, and has one trainer at a time."""

import json

import pytest

import storage
from configs import schema
from storage import lease
from trainer import workdir


def test_record_says_config_resolved_values_and_versions(tmp_path):
    assert workdir.read(str(tmp_path / "new")) == {}
    config = schema.Config(seed=3)
    workdir.record(str(tmp_path), config, {"precision": "float32"})
    recorded = workdir.read(str(tmp_path))
    assert schema.Config.from_dict(recorded["config"]) == config
    assert recorded["resolved"] == {"precision": "float32"}
    assert recorded["versions"].keys() >= {"tensorflow", "keras", "numpy"}


def test_the_environment_of_a_tpu_has_no_package_called_tensorflow(monkeypatch):
    installed = workdir.metadata.version

    def version(name):
        if name == "tensorflow":
            raise workdir.metadata.PackageNotFoundError(name)
        return "2.19.1" if name == "tensorflow-tpu" else installed(name)

    monkeypatch.setattr(workdir.metadata, "version", version)
    versions = workdir.versions()
    assert versions["tensorflow-tpu"] == "2.19.1"
    assert "tensorflow" not in versions


def test_a_record_may_lack_a_section_that_is_newer(tmp_path):
    config = schema.Config(seed=3)
    workdir.record(str(tmp_path), config, {})
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    del content["config"]["serve"]
    path.write_text(json.dumps(content))
    recorded = workdir.read(str(tmp_path))
    assert schema.Config.from_dict(recorded["config"]) == config


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"config": {}}', b'{"config": "\xff"}']
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json is damaged"):
        workdir.read(str(tmp_path))


@pytest.fixture(name="place", params=["disk", "store"])
def _place(request, tmp_path, bucket, monkeypatch):
    """A workdir that is not there yet."""
    monkeypatch.setattr(lease, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(lease, "_SILENT_BEATS", 10_000)
    on_disk = request.param == "disk"
    return str(tmp_path / "new") if on_disk else "gs://bucket/new"


def test_a_second_trainer_is_kept_out(place):
    with workdir.locked(place, chief=False):
        pass
    assert not storage.path_of(place).exists()
    busy = f"Another trainer .*{place}; .*workdir"
    with workdir.locked(place):
        with pytest.raises(ValueError, match=busy):
            with workdir.locked(place):
                pass
        with workdir.locked(place, chief=False):
            pass
    with workdir.locked(place):
        pass


def test_a_record_in_a_store(bucket):
    path = "gs://bucket/run"
    assert workdir.read(path) == {}
    workdir.record(path, schema.Config(), {"precision": "float32"})
    assert workdir.read(path)["resolved"] == {"precision": "float32"}
    step = "gs://bucket/run/checkpoints/pretrain/step-000000005"
    bucket.objects[f"{step}/state.json"] = b"{}"
    # Nobody came to the end of a checkpoint.
    assert workdir.stages(path) == set()
    bucket.objects[f"{step}/manifest.json"] = b"{}"
    assert workdir.stages(path) == {"pretrain"}
