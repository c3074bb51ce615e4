"""Planted faults, each of which the doctor finds and names."""

import dataclasses
import json
import shutil
import sys
import types
from importlib import metadata

import numpy as np
import pytest
import tensorflow as tf

import storage
from configs import runtime
from input_pipeline import preparation, pretraining
from trainer import main as cli
from trainer import workdir as workdir_lib
from trainer.commands import doctor
from trainer.commands.checkups import check, installation, rows, small_model
from trainer.training import step as step_lib
from trainer.training import strategies


@pytest.fixture(name="case")
def _case(tiny, tmp_path):
    """A function: changes, strategy -> the tiny run, not begun."""

    def create(more=(), strategy="one_device"):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        changes = {"data.prepared_dir": str(tmp_path / "prepared")}
        return check.Case(
            tiny({**changes, **dict(more)}),
            str(tmp_path / "run"),
            runtime.Runtime(strategy),
            str(scratch),
        )

    return create


def found(case, group, verdict=check.WRONG):
    """Name -> text of the lines of a group with that verdict."""
    lines = doctor.examine(case, [group])
    return {line.name: line.text for line in lines if line.verdict == verdict}


def the_only(faults, name):
    """What the line of that name says; nothing else is wrong."""
    assert list(faults) == [name]
    return faults[name]


def plant_versions(monkeypatch, **versions):
    """Makes packages look as if they had other versions; "" = missing."""
    real = metadata.version

    def version(name):
        found = versions.get(name.replace("-", "_"), None)
        if found == "":
            raise metadata.PackageNotFoundError(name)
        return found or real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_a_python_that_is_too_old(case, monkeypatch):
    monkeypatch.setattr(installation.platform, "python_version", lambda: "3.10")
    text = the_only(found(case(), "installation"), "python")
    assert "Python 3.10, but Cloze needs" in text


def test_a_version_that_is_not_allowed(case, monkeypatch):
    plant_versions(monkeypatch, keras="3.16.0")
    text = the_only(found(case(), "installation"), "packages")
    assert "keras is 3.16.0, not <3.16,>=3.15.1; make the env" in text


def test_a_package_that_is_missing(case, monkeypatch):
    plant_versions(monkeypatch, safetensors="")
    text = the_only(found(case(), "installation"), "packages")
    assert "safetensors is missing; make the environment anew" in text


def test_a_version_that_is_allowed_but_not_locked(case, monkeypatch):
    plant_versions(monkeypatch, safetensors="0.5.999")
    faults = found(case(), "installation", check.WARNING)
    text = the_only(faults, "packages")
    assert "safetensors is 0.5.999, not ==" in text


def test_no_tensorflow_at_all(case, monkeypatch):
    name = "trainer.commands.checkups.devices"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    text = the_only(found(case(), "devices"), "devices")
    assert "ModuleNotFoundError" in text
    assert "tensorflow" in text


def test_a_worker_that_the_cluster_does_not_have(case, monkeypatch):
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    task = {"type": "worker", "index": 2}
    text = json.dumps({"cluster": cluster, "task": task})
    monkeypatch.setenv("TF_CONFIG", text)
    patient = case(strategy="multi_worker")
    lines = list(doctor.examine(patient, ["devices", "places"]))
    assert lines[0].verdict == check.WRONG
    assert "task.index=2 is out of range for 2 worker(s)" in lines[0].text
    # What needs devices is not tried; the rest is.
    assert [line.verdict for line in lines[1:]] == [
        *[check.WARNING] * 4,
        *[check.OK] * 2,
    ]
    assert "not tried, as devices is wrong" in lines[1].text


def test_a_batch_that_cannot_be_divided(case):
    changes = {"train.global_batch_size": 6, "train.jit": "off"}
    text = the_only(found(case(changes, "mirrored"), "devices"), "batch")
    assert "global_batch_size=6 must be a multiple of 4" in text


@pytest.mark.parametrize(
    ("jit", "verdict"), [("on", check.WRONG), ("off", check.WARNING)]
)
def test_an_xla_that_fails(case, monkeypatch, jit, verdict):
    real = tf.function

    def function(*arguments, jit_compile=None, **keywords):
        if jit_compile:

            def fail(*_):
                raise tf.errors.InternalError(None, None, "libdevice\nis gone")

            return fail
        return real(*arguments, **keywords)

    monkeypatch.setattr(tf, "function", function)
    text = the_only(found(case({"train.jit": jit}), "devices", verdict), "xla")
    assert "CPU:0: InternalError: libdevice is gone" in text
    assert "set train.jit=off" in text


def test_a_bfloat16_that_is_wrong(case, monkeypatch):
    real = tf.matmul

    def matmul(a, b, **keywords):
        wrong = a.dtype == tf.bfloat16
        return real(a, b, **keywords) * (0 if wrong else 1)

    monkeypatch.setattr(tf, "matmul", matmul)
    changes = {"train.precision": "bfloat16"}
    text = the_only(found(case(changes), "devices"), "bfloat16")
    assert "the result is off by" in text
    assert "set train.precision=float32" in text


def test_an_all_reduce_that_doubles(case, devices, monkeypatch):
    real = tf.distribute.ReplicaContext.all_reduce
    monkeypatch.setattr(
        tf.distribute.ReplicaContext,
        "all_reduce",
        lambda self, op, value: 2 * real(self, op, value),
    )
    patient = dataclasses.replace(case(), runtime=devices(4))
    text = the_only(found(patient, "devices"), "all reduce")
    assert "the sum of 1 to 4 over the replicas is [20.0], not 10" in text


@pytest.mark.parametrize("place", ["run", "prepared"])
def test_a_place_that_cannot_be_written(case, tmp_path, place):
    # Even the superuser makes no directory below a file.
    blocked = tmp_path / "file"
    blocked.write_text("")
    patient = case({"data.prepared_dir": str(blocked / "prepared")})
    if place == "run":
        patient = case_in(patient, blocked / "run")
    text = the_only(found(patient, "places"), "workdir")
    assert text.startswith(f"{blocked}")
    assert "check that the path is right" in text


def case_in(case, workdir):
    """The same case with another workdir and a good place for its rows."""
    data = dataclasses.replace(case.config.data, prepared_dir=case.scratch)
    return dataclasses.replace(
        case,
        config=dataclasses.replace(case.config, data=data),
        workdir=str(workdir),
    )


def test_a_workdir_in_which_another_trains(case):
    patient = case()
    with workdir_lib.locked(patient.workdir):
        text = the_only(found(patient, "places"), "workdir")
    assert "Another trainer is at work in" in text
    assert not found(patient, "places")


def test_a_workdir_of_another_run(case, finished):
    patient = dataclasses.replace(case(), workdir=str(finished.workdir))
    assert not found(patient, "places")
    patient.config = dataclasses.replace(patient.config, seed=5)
    text = the_only(found(patient, "places"), "workdir")
    assert "seed was 0, now 5" in text


def test_a_disk_that_is_full(case, monkeypatch):
    full = types.SimpleNamespace(free=10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    text = the_only(found(case(), "places"), "space")
    assert "0.0 GB free at" in text
    assert "free some, choose another --workdir" in text


def test_text_that_is_missing(case, tmp_path):
    patient = case({"data.path": str(tmp_path / "none" / "*.txt")})
    text = the_only(found(patient, "rows"), "data")
    assert "matches no file" in text


def test_a_shard_with_a_flipped_bit(case):
    patient = case()
    directory = preparation.prepare(patient.config)
    assert not found(patient, "rows")
    shard = next(directory.glob("train*.tfrecord"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    patient.prepared = None
    text = the_only(found(patient, "rows"), "rows")
    assert f"{shard} is damaged: its sha256 differs" in text
    assert f"Delete {directory} and start again" in text


def test_a_manifest_with_a_wrong_digest(case):
    patient = case()
    directory = preparation.prepare(patient.config)
    path = directory / storage.MANIFEST
    path.write_text(path.read_text().replace('"num_rows": 1', '"num_rows": 2'))
    text = the_only(found(patient, "rows"), "rows")
    assert "its digest does not match" in text


def test_masks_on_special_tokens(case, monkeypatch):
    real = pretraining.create_masker

    def create_masker(prepared, config):
        masker = real(prepared, config)
        nothing = np.zeros_like(masker.is_special)
        return dataclasses.replace(masker, is_special=nothing)

    monkeypatch.setattr(pretraining, "create_masker", create_masker)
    text = the_only(found(case(), "rows"), "masks")
    assert "a special token is predicted" in text


@pytest.fixture(name="small")
def _small(case, monkeypatch):
    """A function: changes -> a case for `small_model`, with good layouts."""

    def create(more=()):
        patient = case(more)
        patient.strategy = strategies.create("one_device")
        steps = small_model.Steps(["a", "b"], [2.0, 1.0])
        monkeypatch.setattr(
            small_model, "measured_layouts", lambda *_: [steps, steps]
        )
        return patient

    return create


def test_a_first_loss_far_from_guessing(small):
    patient = small({"model.initializer_range": 2.0})
    faults = found(patient, "small_model")
    assert "nats at step 0, where guessing among" in faults["initial loss"]
    assert "look at model.initializer_range" in faults["initial loss"]


def test_an_update_that_changes_nothing(small, monkeypatch):
    monkeypatch.setattr(step_lib.Step, "update", lambda self, _, sums: sums)
    text = the_only(found(small(), "small_model"), "one batch")
    assert "one batch, 150 times" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"digests": ["a", "c"]}, "are given other batches than one"),
        ({"losses": [2.0, 1.0001]}, "the layout changes the result"),
        ({"losses": [2.0, float("nan")]}, "the layout changes the result"),
    ],
)
def test_two_devices_that_differ_from_one(case, monkeypatch, changed, message):
    steps = small_model.Steps(["a", "b"], [2.0, 1.0])
    monkeypatch.setattr(
        small_model,
        "measured_layouts",
        lambda *_: [steps, steps._replace(**changed)],
    )
    line = check.perform(small_model.CHECKS[-1], case())
    assert line.verdict == check.WRONG
    assert message in line.text


def test_a_check_that_crashes_does_not_end_the_doctor(case, monkeypatch):
    def crash(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(rows.preflight, "check", crash)
    lines = list(doctor.examine(case(), ["rows"]))
    assert [line.verdict for line in lines] == [
        check.WRONG,
        check.WARNING,
        check.OK,
    ]
    assert "KeyError: 'a bug'; CLOZE_TRACEBACK=1 shows where" in lines[0].text


def test_one_wrong_line_is_exit_code_2(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "GROUPS", ("places", "rows"))
    argv = flags(tmp_path / "run", **{"config.data.path": "/none/*.txt"})
    assert cli.main([*argv, "--mode=doctor"]) == 2
    out, err = capsys.readouterr()
    assert [row.split()[:2] for row in out.splitlines()] == [
        ["ok", "workdir"],
        ["ok", "space"],
        ["wrong", "data"],
        ["warning", "rows"],
        ["ok", "masks"],
    ]
    assert err == (
        "cloze: 1 of 5 checks found something wrong: data. Their lines say"
        " what to do.\n"
    )


@pytest.mark.soak  # Half a minute.
def test_a_healthy_machine_is_all_ok(flags, tmp_path, capsys):
    argv = flags(tmp_path / "run")
    assert cli.main([*argv, "--mode=doctor"]) == 0
    out, err = capsys.readouterr()
    lines = [row.split(maxsplit=1) for row in out.splitlines()]
    assert {verdict for verdict, _ in lines} == {"ok"}, out
    assert len(lines) == 15
    assert err == ""
    assert not (tmp_path / "run").exists()
