"""Planted faults, each of which the doctor finds and names."""

import dataclasses
import shutil
import sys
import types
from importlib import metadata

import numpy as np
import pytest
import tensorflow as tf

import storage
from configs import overrides, runtime
from input_pipeline import preparation, pretraining
from tests import bucket as store
from trainer import main as cli
from trainer import modeling
from trainer import workdir as workdir_lib
from trainer.commands import doctor
from trainer.commands.checkups import devices as device_checks
from trainer.commands.checkups import files, installation, small_model
from trainer.training import step as step_lib


@pytest.fixture(name="case")
def _case(tiny, tmp_path):
    """A function: changes, layout -> the tiny run, not begun."""
    (tmp_path / "scratch").mkdir()

    def create(more=(), layout=None, **parts):
        changes = {"data.prepared_dir": str(tmp_path / "prepared")}
        case = doctor.Case(
            tiny({**changes, **dict(more)}),
            str(tmp_path / "run"),
            layout or runtime.Runtime("one_device"),
            str(tmp_path / "scratch"),
        )
        return dataclasses.replace(case, **parts)

    return create


def verdicts(output):
    """Name -> verdict, of what was printed."""
    return {row.split()[1]: row.split()[0] for row in output.splitlines()}


def test_a_line_for_each_check_and_exit_code_2(
    flags, tmp_path, capsys, monkeypatch
):
    names = ("workdir", "space", "data", "rows")
    monkeypatch.setattr(doctor, "CHECKS", {"files": names})
    argv = flags(tmp_path / "run", **{"config.data.path": "/none/*.txt"})
    assert cli.main([*argv, "--mode=doctor"]) == 2
    out, err = capsys.readouterr()
    found = verdicts(out)
    assert [*found] == [*names]
    assert found.pop("data") == "wrong" and found.pop("rows") == "warning"
    assert {*found.values()} == {"ok"}
    assert err == (
        "cloze: 1 of 4 checks found something wrong: data. Their lines say"
        " what to do.\n"
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("x"), "KeyError: 'x'; CLOZE_TRACEBACK=1 shows where"),
        (ValueError("no\n  row"), "no row"),
        (
            OSError(13, "Permission denied", "/a"),
            "/a: Permission denied; check",
        ),
    ],
)
def test_whatever_a_check_raises_is_a_line(
    case, capsys, monkeypatch, error, text
):
    def space(_):
        raise error

    monkeypatch.setattr(files, "space", space)
    monkeypatch.setattr(doctor, "CHECKS", {"files": ("space", "data")})
    monkeypatch.setenv("CLOZE_TRACEBACK", "1")
    one = case()
    with pytest.raises(ValueError, match="1 of 2 checks .* wrong: space"):
        doctor.run(one.config, workdir=one.workdir, runtime=one.runtime)
    out, err = capsys.readouterr()
    assert out.startswith(f"wrong    space         {text}")
    assert verdicts(out)["data"] == "ok"
    assert "Traceback (most recent call last)" in err


def test_no_tensorflow_at_all(case, capsys, monkeypatch):
    name = "trainer.commands.checkups.devices"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    groups = {"devices": ("devices", "batch")}
    monkeypatch.setattr(doctor, "CHECKS", groups)
    one = case()
    with pytest.raises(ValueError, match="wrong: devices"):
        doctor.run(one.config, workdir=one.workdir, runtime=one.runtime)
    out = capsys.readouterr().out
    assert verdicts(out) == {"devices": "wrong", "batch": "warning"}
    assert "ModuleNotFoundError" in out and "tensorflow" in out


@pytest.mark.soak  # Half a minute.
def test_a_healthy_machine_is_all_ok(flags, tmp_path, capsys):
    argv = flags(tmp_path / "run")
    assert cli.main([*argv, "--mode=doctor"]) == 0
    out, err = capsys.readouterr()
    assert {*verdicts(out).values()} == {"ok"}, out
    assert len(out.splitlines()) == 15
    assert err == ""
    assert not (tmp_path / "run").exists()


def test_a_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr(installation.platform, "python_version", lambda: "3.10")
    with pytest.raises(ValueError, match="Python 3.10, but Cloze needs"):
        installation.python(None)


@pytest.mark.parametrize(
    ("name", "version", "error", "message"),
    [
        ("keras", "3.16.0", ValueError, "keras is 3.16.0, not <3.16,>=3.15.1;"),
        ("safetensors", "", ValueError, "safetensors is missing; make the env"),
        (
            "safetensors",
            "0.5.999",
            doctor.CheckWarning,
            "safetensors is 0.5.999, not ==",
        ),
    ],
)
def test_a_package_that_does_not_fit(
    monkeypatch, name, version, error, message
):
    real = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda n: version if n == name else real(n)
    )
    with pytest.raises(error, match=message):
        installation.packages(None)


LOCK = """\
# A comment.
one==1.0 \\
    --hash=sha256:00
    # via two
two==2.0 ; python_full_version < '3.0' \\
two==2.1 ; python_full_version >= '3.0'
cuda==9.0
"""


@pytest.mark.parametrize(
    ("installed", "lock"),
    [
        ({"one": "1.0", "two": "2.1"}, "requirements.txt"),
        ({"one": "1.0", "nvidia-cudnn-cu12": "9.9"}, "requirements-gpu.txt"),
        ({"tensorflow-tpu": "2.20.0"}, "launch/tpu_vm/requirements.txt"),
    ],
)
def test_each_machine_has_its_lock(monkeypatch, tmp_path, installed, lock):
    monkeypatch.setattr(installation, "ROOT", tmp_path)
    monkeypatch.setattr(metadata, "version", installed.get)
    tensorflow = '"tensorflow>=2.19,<2.22"' * ("tensorflow-tpu" in installed)
    for name, text in (
        ("pyproject.toml", f"[project]\ndependencies = [{tensorflow}]\n"),
        (lock, LOCK),
    ):
        with pytest.raises(doctor.CheckWarning, match=f"{name}, .* not there"):
            installation.packages(None)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert installation.packages(None) == f"all are as in {lock}"
    (tmp_path / lock).write_text(LOCK.replace("one==1.0", "one==1.1"))
    if "one" in installed:
        with pytest.raises(doctor.CheckWarning, match="one is 1.0, not ==1.1"):
            installation.packages(None)


def test_the_lock_with_cuda_repeats_the_other():
    small, large = (
        {*(installation.ROOT / name).read_text().splitlines()}
        for name in ("requirements.txt", "requirements-gpu.txt")
    )
    assert {line for line in small if "==" in line} <= large


def test_four_devices_are_well(case, devices):
    one = case(layout=devices(4))
    found = [
        getattr(device_checks, name)(one) for name in doctor.CHECKS["devices"]
    ]
    assert "MirroredStrategy: 4 replica(s)" in found[0]
    assert found[-1] == "the sum of 1 to 4 over the replicas is 10 on each"


def test_a_gpu_that_tensorflow_does_not_see(case, monkeypatch):
    monkeypatch.setattr(
        device_checks.pathlib,
        "Path",
        lambda _: types.SimpleNamespace(glob=lambda _: ["/dev/nvidia0"]),
    )
    with pytest.raises(doctor.CheckWarning, match="has a GPU: install with"):
        device_checks.devices(case())


@pytest.mark.parametrize("section", ["train", "finetune"])
def test_a_batch_that_cannot_be_divided(case, devices, section):
    changes = {f"{section}.global_batch_size": 6, "data.source": "jsonl"}
    with pytest.raises(ValueError, match=f"{section}.global_batch_size=6 must"):
        device_checks.batch(case(changes, devices(4)))


@pytest.mark.parametrize("used", [True, False])
def test_an_xla_that_fails(case, monkeypatch, used):
    def function(*_, **__):
        def fail(_):
            raise tf.errors.InternalError(None, None, "libdevice\nis gone")

        return fail

    monkeypatch.setattr(tf, "function", function)
    error = ValueError if used else doctor.CheckWarning
    message = "CPU:0: InternalError: libdevice is gone; CLOZE"
    with pytest.raises(error, match=message):
        device_checks.xla(case({"train.jit": "on" if used else "off"}))


@pytest.mark.parametrize("factor", [0.0, np.nan])
def test_a_bfloat16_that_is_wrong(case, monkeypatch, factor):
    real = tf.matmul

    def matmul(a, b, **keywords):
        return real(a, b, **keywords) * (
            factor if a.dtype == tf.bfloat16 else 1
        )

    monkeypatch.setattr(tf, "matmul", matmul)
    with pytest.raises(
        ValueError, match="is off by .* train.precision=float32"
    ):
        device_checks.bfloat16(case({"train.precision": "bfloat16"}))


def test_an_all_reduce_that_doubles(case, devices, monkeypatch):
    real = tf.distribute.ReplicaContext.all_reduce
    monkeypatch.setattr(
        tf.distribute.ReplicaContext,
        "all_reduce",
        lambda self, op, value: 2 * real(self, op, value),
    )
    with pytest.raises(ValueError, match=r"1 to 4 .* is \[20.0\], not 10"):
        device_checks.all_reduce(case(layout=devices(4)))


def test_a_place_that_cannot_be_written(case, tmp_path):
    # Even the superuser makes no directory below a file.
    (tmp_path / "file").write_text("")
    inside = str(tmp_path / "file" / "x")
    for one in (case({"data.prepared_dir": inside}), case(workdir=inside)):
        with pytest.raises(NotADirectoryError):
            files.workdir(one)


def test_a_workdir_that_is_free_and_one_in_which_another_trains(case, tmp_path):
    one = case()
    assert files.workdir(one)
    assert not (tmp_path / "run").exists()
    with workdir_lib.locked(one.workdir):
        with pytest.raises(ValueError, match="Another trainer is at work in"):
            files.workdir(one)
    assert files.workdir(one)


def test_a_workdir_of_another_run(case, finished):
    workdir = str(finished.workdir)
    assert files.workdir(case(workdir=workdir))
    with pytest.raises(ValueError, match="seed was 0, now 5"):
        files.workdir(case({"seed": 5}, workdir=workdir))


def test_places_in_a_store(case, bucket):
    one = case(
        {"data.prepared_dir": "gs://bucket/prepared"}, workdir="gs://bucket/run"
    )
    assert files.workdir(one)
    assert not list(bucket.objects)
    assert files.space(one).endswith("is not checked in a store")
    where = preparation.locate(one.config)
    bucket.objects[f"{where}/train-00000.tfrecord"] = b""
    assert "none yet" in files.rows(one)  # Nobody finished them.
    bucket.changes_left = 0
    with pytest.raises(store.GoneError):
        files.workdir(one)


def test_a_disk_that_is_full(case, monkeypatch):
    assert files.space(case())
    full = types.SimpleNamespace(free=10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(
        ValueError, match="0.0 GB free at .*; free some, choose"
    ):
        files.space(case())


def test_the_space_is_that_of_the_models_checkpoints(case):
    config = overrides.load_config("configs/bert_small.py", changes={})
    model = modeling.create_masked_lm(
        config.model,
        vocabulary_size=config.tokenizer.vocabulary_size,
        sequence_length=config.data.sequence_length,
    )
    text = files.space(dataclasses.replace(case(), config=config))
    found = float(text.partition("about ")[2].split()[0])
    number = 2 * (config.checkpoint.keep_last + 3)
    expected = number * 12 * model.count_params() / 1e9
    assert found == pytest.approx(expected, rel=0.05)


def test_rows_are_not_made_and_damage_is_found(case):
    one = case()
    directory = preparation.locate(one.config)
    assert "begins 'the movie was" in files.data(one)
    assert f"none yet; they will be in {directory}" in files.rows(one)
    assert not directory.exists()
    preparation.prepare(one.config)
    assert files.rows(one) == f"{directory} is whole"
    shard = next(directory.glob("train*.tfrecord"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(storage.DamagedError, match=f"{shard} is damaged: its"):
        files.rows(case())
    few = case({"data.validation_rate": 1e-9})
    preparation.prepare(few.config)
    with pytest.raises(doctor.CheckWarning, match="goes without validation"):
        files.rows(few)


def test_masks_on_special_tokens(case, monkeypatch):
    assert "of 32 sample rows" in files.masks(case())
    real = pretraining.create_masker

    def create_masker(prepared, config):
        masker = real(prepared, config)
        nothing = np.zeros_like(masker.is_special)
        return dataclasses.replace(masker, is_special=nothing)

    monkeypatch.setattr(pretraining, "create_masker", create_masker)
    with pytest.raises(ValueError, match="a special token is predicted"):
        files.masks(case())


def test_a_small_model_of_another_shape_is_well(case):
    config = overrides.load_config(
        "configs/imdb_notebook.py",
        changes={
            "config.train.jit": "off",
            "config.tokenizer.kind": "word",  # Learned sooner.
        },
    )
    one = dataclasses.replace(case(), config=config)
    small, _ = files.sample(one)
    assert small.model.activation == config.model.activation
    assert "nats at step 0" in small_model.initial_loss(one)
    assert "one batch" in small_model.one_batch(one)


def test_a_first_loss_far_from_guessing(case):
    one = case({"model.initializer_range": 2.0})
    with pytest.raises(ValueError, match="look at model.initializer_range"):
        small_model.initial_loss(one)


def test_an_update_that_changes_nothing(case, monkeypatch):
    monkeypatch.setattr(step_lib.Step, "update", lambda self, _, sums: sums)
    with pytest.raises(ValueError, match="one batch, 150 times"):
        small_model.one_batch(case())


@pytest.mark.parametrize("other", [1.0001, float("nan")])
def test_two_devices_that_differ_from_one(case, monkeypatch, other):
    monkeypatch.setattr(
        small_model.processes.process.ProcessPoolExecutor,
        "map",
        lambda *_: iter([[2.0, 1.0], [2.0, other]]),
    )
    with pytest.raises(ValueError, match="the layout changes the result"):
        small_model.layout(case())
