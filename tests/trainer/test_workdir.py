"""A workdir belongs to one run, and to one trainer at a time."""

import dataclasses
import json

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
    assert workdir.check(str(tmp_path / "new"), _config()) == {}


def test_the_same_config_goes_on(trained):
    recorded = workdir.check(str(trained), _config())
    assert recorded["resolved"] == {"precision": "float32"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        (
            {"data": {"sequence_length": 128}},
            "data.sequence_length was 256, now 128",
        ),
        (
            {"tokenizer": {"kind": "wordpiece"}},
            "tokenizer.kind was 'unicode_word', now 'wordpiece'",
        ),
        (
            {"masking": {"select_rate": 0.2}},
            "masking.select_rate was 0.15, now 0.2",
        ),
        ({"model": {"num_layers": 3}}, "model.num_layers was 2, now 3"),
        (
            {"train": {"global_batch_size": 64}},
            "train.global_batch_size was 32, now 64",
        ),
    ],
)
def test_another_run_is_shown_and_refused(trained, change, message):
    with pytest.raises(ValueError, match=message) as error:
        workdir.check(str(trained), _config(**change))
    assert str(trained) in str(error.value)
    # allow_changed is for the optimizer alone.
    allowed = {"checkpoint": {"allow_changed": True}}
    with pytest.raises(ValueError, match=message):
        workdir.check(str(trained), _config(**change, **allowed))


def test_every_difference_is_shown(trained):
    with pytest.raises(ValueError, match="num_heads.*; .*seed"):
        workdir.check(str(trained), _config(seed=1, model={"num_heads": 8}))


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"prepared_dir": "elsewhere", "num_processes": 3}},
        {"train": {"num_steps": 9, "accumulation_steps": 2, "jit": "on"}},
        {"train": {"precision": "float16", "log_every": 3}},
        {"evaluation": {"every_steps": 3}},
        {"checkpoint": {"every_steps": 3, "keep_last": 1}},
    ],
)
def test_the_rest_may_change(trained, change):
    assert workdir.check(str(trained), _config(**change))


def test_another_test_file_may_come_but_none_may_not(trained):
    text = {"source": "csv", "path": "a.csv"}
    first, other, none = (
        _config(data={**text, "test_path": path}) for path in ("b", "c", "")
    )
    workdir.record(str(trained), first, {})
    assert workdir.check(str(trained), other)
    with pytest.raises(ValueError, match="data.test_path was 'a file', now ''"):
        workdir.check(str(trained), none)


@pytest.mark.parametrize(
    "name", ["validation_path", "unlabeled_path", "group_field"]
)
def test_what_else_decides_the_rows_may_not_change(trained, name):
    text = {"source": "csv", "path": "a.csv"}
    first, other = (_config(data={**text, name: value}) for value in "bc")
    workdir.record(str(trained), first, {})
    with pytest.raises(ValueError, match=f"data.{name} was 'b', now 'c'"):
        workdir.check(str(trained), other)


def test_another_optimizer_must_be_allowed(trained):
    change = {"optimizer": {"learning_rate": 0.5}}
    with pytest.raises(
        ValueError,
        match="optimizer.learning_rate was 0.001, now 0.5.*allow_changed",
    ):
        workdir.check(str(trained), _config(**change))
    allowed = {"checkpoint": {"allow_changed": True}}
    assert workdir.check(str(trained), _config(**change, **allowed))


def test_without_a_complete_checkpoint_all_may_change(trained):
    [checkpoint] = (trained / "checkpoints" / "pretrain").iterdir()
    checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}.tmp-12"))
    assert workdir.check(str(trained), _config(seed=1)) == {}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"config": {}}', '{"config": 3}', "\0\0"],
)
def test_a_damaged_record_is_named(trained, content):
    (trained / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json is damaged"):
        workdir.check(str(trained), _config())


def test_a_record_of_bytes_that_are_no_text_is_named(trained):
    (trained / "config.json").write_bytes(b'{"config": "\xff"}')
    with pytest.raises(ValueError, match="config.json is damaged"):
        workdir.check(str(trained), _config())


def test_sections_of_other_versions_do_not_matter(trained):
    file = trained / "config.json"
    content = json.loads(file.read_text())
    del content["config"]["benchmark"]
    content["config"]["export"] = {}
    # These knobs came later.
    del content["config"]["checkpoint"]["best_by"]
    del content["config"]["finetune"]["patience"]
    tuned = trained / "checkpoints" / "finetune" / "step-000000003"
    tuned.mkdir(parents=True)
    file.write_text(json.dumps(content))
    assert workdir.check(str(trained), _config())


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


def test_fine_tuning_guards_its_own_section(trained):
    change = {"finetune": {"pooling": "max"}}
    rate = {"finetune": {"learning_rate": 0.5}}
    best_by = {"checkpoint": {"best_by": "accuracy", "allow_changed": True}}
    # Nothing is fine-tuned yet.
    assert workdir.check(str(trained), _config(**change, **best_by))
    tuned = trained / "checkpoints" / "finetune_frozen" / "step-000000003"
    tuned.mkdir(parents=True)
    with pytest.raises(ValueError, match="finetune.pooling was 'mean_max'"):
        workdir.check(str(trained), _config(**change))
    with pytest.raises(ValueError, match="checkpoint.best_by was 'loss', now"):
        workdir.check(str(trained), _config(**best_by))
    with pytest.raises(ValueError, match=r"finetune.learning_rate.*allow"):
        workdir.check(str(trained), _config(**rate))
    allowed = {"checkpoint": {"allow_changed": True}}
    assert workdir.check(str(trained), _config(**rate, **allowed))
    for free in (
        {"num_epochs": 9},
        {"patience": 2},
        {"self_training_rounds": 1},
    ):
        assert workdir.check(str(trained), _config(finetune=free))


def test_a_workdir_in_a_store(bucket):
    path = "gs://bucket/run"
    assert workdir.check(path, _config()) == {}
    workdir.record(path, _config(), {"precision": "float32"})
    assert workdir.read(path)["resolved"] == {"precision": "float32"}
    step = "gs://bucket/run/checkpoints/pretrain/step-000000005"
    bucket.objects[f"{step}/state.json"] = b"{}"
    # Nobody came to the end of a checkpoint.
    assert workdir.check(path, _config(seed=1)) == {}
    bucket.objects[f"{step}/manifest.json"] = b"{}"
    with pytest.raises(ValueError, match="gs://bucket/run holds another run"):
        workdir.check(path, _config(seed=1))
