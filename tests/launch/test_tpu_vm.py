"""A Cloud TPU VM; gcloud is a fake that notes what it is asked."""

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

from tests.launch import conftest, test_dockerfile

# A project in which there is nothing yet; $EXISTS and $STATE change that.
GCLOUD = """
case "$*" in
  config*) echo "${PROJECT_SET:-}" ;;
  *"types list"*) printf '%s\\n' v5litepod-4 v5litepod-8 v6e-8 v4-32 ;;
  *"$EXISTS"*describe*) echo "${STATE:-ACTIVE}" ;;
  *describe*) echo "ERROR: NOT_FOUND" >&2; exit 1 ;;
  *create*) if [[ ${QUOTA:-} ]]; then echo "ERROR: $QUOTA" >&2; exit 1; fi ;;
esac
"""
SETTINGS = {"FAKE_gcloud": GCLOUD, "EXISTS": "nothing", "PROJECT_SET": "acme"}
ACTIVE = {**SETTINGS, "EXISTS": "queued-resources"}


@pytest.fixture(name="asked")
def _asked(calls):
    """A function: the calls of gcloud that hold this word."""

    def find(word):
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line for line in lines if word in line]

    return find


@pytest.mark.parametrize(
    ("kind", "zone", "runtime"),
    [
        ("v6e-8", "us-east1-d", "v2-alpha-tpuv6e"),
        ("v4-8", "us-central2-b", "tpu-ubuntu2204-base"),
        ("v5p-8", "us-east5-a", "v2-alpha-tpuv5"),
    ],
)
def test_create_knows_zone_and_runtime(kind, zone, runtime, launch):
    shown = launch("tpu_vm/create.sh", "--dry_run", CLOZE_TYPE=kind)
    line = shown.stdout.splitlines()[-1]
    assert line == (
        "gcloud compute tpus queued-resources create cloze --node-id=cloze"
        f" --accelerator-type={kind} --runtime-version={runtime} --spot"
        f" --zone={zone} '--project=<project>'"
    )


def test_create_asks_once_for_what_is_named(launch, asked):
    result = launch("tpu_vm/create.sh", "--name=mine", "--spot=no", **SETTINGS)
    assert result.returncode == 0, result
    assert asked(" create ") == [
        "gcloud compute tpus queued-resources create mine --node-id=mine"
        " --accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite"
        " --zone=us-central1-a --project=acme"
    ]
    assert "costs money" in result.stdout
    assert not result.stderr
    several = launch("tpu_vm/create.sh", "--type=v4-32", **SETTINGS)
    assert "nobody has run that" in several.stderr


@pytest.mark.parametrize(
    ("words", "settings", "says"),
    [
        (("--type=v3-8",), {}, "--type=v3-8 is not known; choose v4-8"),
        (("--spot=maybe",), {}, "--spot=maybe is not known"),
        ((), {"PROJECT_SET": "(unset)"}, "no Google Cloud project is set"),
        (("--type=v5p-8",), {}, "has no v5p-8 but v5litepod-4, v5litepod-8"),
        ((), {"EXISTS": "queued-resources"}, "a TPU called cloze exists"),
        ((), {"EXISTS": "tpu-vm"}, "a TPU called cloze exists already"),
        ((), {"QUOTA": "no quota for v5e"}, "ERROR: no quota for v5e"),
    ],
)
def test_create_refuses(words, settings, says, refused, asked):
    settings = {**SETTINGS, **settings}
    assert says in refused("tpu_vm/create.sh", *words, **settings)
    if "QUOTA" not in settings:
        assert not asked(" create ")


def test_setup_installs_the_exact_pins(launch, asked):
    result = launch("tpu_vm/setup.sh", **ACTIVE)
    assert result.returncode == 0, result
    (copy,) = asked(" scp ")
    assert {"launch", *test_dockerfile.PACKAGES} <= {*copy.split()}
    assert asked("--no-deps --requirement launch/tpu_vm/requirements.txt")
    path = conftest.ROOT / "launch" / "tpu_vm" / "requirements.txt"
    lines = path.read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line[0] != "#")
    assert pins["tensorflow-tpu"] == "2.19.1"
    assert pins["libtpu"] == "0.0.10"
    assert not pins.keys() & {"tensorflow", "tensorflow-text"}


def test_run_passes_the_flags_on(launch, asked):
    words = ("--", "--workdir=gs://bucket/run", "--config.a=it's")
    result = launch("tpu_vm/run.sh", *words, **ACTIVE)
    assert result.returncode == 0, result
    (call,) = asked(" ssh ")
    command = call.split("--command=")[1].split(" --zone=")[0]
    assert shlex.split(command)[4:] == [
        "launch/tpu_vm/remain.sh",
        "--tpu=local",
        "--stop=no",
        *words,
    ]


@pytest.mark.parametrize(
    ("script", "settings", "says"),
    [
        ("setup", SETTINGS, "there is no TPU cloze in us-central1-a of acme"),
        (
            "run",
            {**ACTIVE, "STATE": "SUSPENDED"},
            "is SUSPENDED and not ACTIVE",
        ),
    ],
)
def test_needs_a_tpu_that_is_there(script, settings, says, refused, asked):
    assert says in refused(f"tpu_vm/{script}.sh", **settings)
    assert not asked(" ssh ")


def test_delete_saves_first_and_names_what_it_deletes(launch, asked):
    result = launch("tpu_vm/delete.sh", "--name=mine", **ACTIVE)
    assert result.returncode == 0, result
    assert "remain.sh --stop=yes" in asked(" tpus ")[0]
    assert asked("delete mine --force") == asked("delete")


@pytest.fixture(name="remain")
def _remain(environment, tmp_path):
    """A function: starts remain.sh of a checkout of its own."""
    shutil.copytree(conftest.ROOT / "launch", tmp_path / "cloze" / "launch")

    def start(*words, **settings):
        return subprocess.Popen(
            [tmp_path / "cloze" / "launch" / "tpu_vm" / "remain.sh", *words],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(**settings),
            start_new_session=True,
        )

    return start


def test_a_run_outlives_the_connection(remain, tmp_path):
    first = remain(FAKE_FATES="wait")
    assert first.stdout.readline() == "step 1\n"
    first.kill()
    first.wait()
    pid = (tmp_path / "cloze" / "run.pid").read_text()
    again = remain()
    assert again.stdout.readline() == "step 1\n"
    assert (tmp_path / "cloze" / "run.pid").read_text() == pid
    stopped = remain("--stop=yes")
    out, _ = stopped.communicate(timeout=30)
    assert stopped.returncode == 0
    assert "saved" in out
    again.communicate(timeout=30)
    assert again.returncode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_remain_gives_the_exit_code_back_and_starts_anew(remain, calls):
    for fate in ("7", "0"):
        process = remain("--", "--mode=pretrain", FAKE_FATES=fate)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == int(fate)
        assert out == "step 1\nwarning\n"
    seen = pathlib.Path(f"{calls}.worker0.json").read_text()
    assert '"--strategy=tpu", "--mode=pretrain"' in seen
    assert '"tpu": "local"' in seen
