"""A workdir says what it was started with, and has one trainer at a time."""

import dataclasses

import pytest

import storage
from configs import schema
from storage import lease
from trainer import workdir


def _config(**sections):
    config = schema.Config()
    changed = {
        name: dataclasses.replace(getattr(config, name), **fields)
        if isinstance(fields, dict)
        else fields
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **changed)


@pytest.fixture
def trained(tmp_path):
    """A workdir with a checkpoint of the default config."""
    workdir.record(str(tmp_path), _config(), {"precision": "float32"})
    (tmp_path / "checkpoints" / "pretrain" / "step-000000005").mkdir(
        parents=True
    )
    return tmp_path


def test_the_environment_of_a_tpu_has_no_package_called_tensorflow(
    tmp_path, monkeypatch
):
    installed = workdir.metadata.version

    def version(name):
        if name == "tensorflow":
            raise workdir.metadata.PackageNotFoundError(name)
        return "2.19.1" if name == "tensorflow-tpu" else installed(name)

    monkeypatch.setattr(workdir.metadata, "version", version)
    workdir.record(str(tmp_path), _config(), {})
    recorded = workdir.read(str(tmp_path))
    assert recorded["versions"]["tensorflow-tpu"] == "2.19.1"
    assert "tensorflow" not in recorded["versions"]


def test_record_says_config_resolved_values_and_versions(tmp_path):
    workdir.record(str(tmp_path), _config(seed=3), {"precision": "float32"})
    recorded = workdir.read(str(tmp_path))
    assert schema.Config.from_dict(recorded["config"]) == _config(seed=3)
    assert recorded["resolved"] == {"precision": "float32"}
    assert recorded["versions"]["keras"].startswith("3.")
    assert set(recorded["versions"]) == {
        "tensorflow",
        "keras",
        "keras-hub",
        "numpy",
    }


def test_nothing_is_recorded_in_a_new_workdir(tmp_path):
    assert workdir.read(str(tmp_path / "new")) == {}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"config": {}}', '{"config": 3}', "\0\0"],
)
def test_a_damaged_record_is_named(trained, content):
    (trained / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json is damaged"):
        workdir.read(str(trained))


def test_a_record_of_bytes_that_are_no_text_is_named(trained):
    (trained / "config.json").write_bytes(b'{"config": "\xff"}')
    with pytest.raises(ValueError, match="config.json is damaged"):
        workdir.read(str(trained))


@pytest.fixture(name="place", params=["disk", "store"])
def _place(request, tmp_path, bucket, monkeypatch):
    """A workdir that is not there yet."""
    monkeypatch.setattr(lease, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(lease, "_SILENT_BEATS", 10_000)
    on_disk = request.param == "disk"
    return str(tmp_path / "new") if on_disk else "gs://bucket/new"


def test_a_second_trainer_is_kept_out(place):
    busy = f"Another trainer .*{place}; .*workdir"
    with workdir.locked(place):
        with pytest.raises(ValueError, match=busy):
            with workdir.locked(place):
                pass
        with workdir.locked(place, chief=False):
            pass
    with workdir.locked(place):
        pass


def test_only_the_chief_makes_the_directory(place):
    with workdir.locked(place, chief=False):
        pass
    assert not storage.path_of(place).exists()


def test_a_record_in_a_store(bucket):
    path = "gs://bucket/run"
    assert workdir.read(path) == {}
    workdir.record(path, _config(), {"precision": "float32"})
    assert workdir.read(path)["resolved"] == {"precision": "float32"}
    step = "gs://bucket/run/checkpoints/pretrain/step-000000005"
    bucket.objects[f"{step}/state.json"] = b"{}"
    # Nobody came to the end of a checkpoint.
    assert workdir.stages(path) == set()
    bucket.objects[f"{step}/manifest.json"] = b"{}"
    assert workdir.stages(path) == {"pretrain"}
