"""What the tests of the scripts share: programs that are not what they seem."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Notes how it was called, then says what the test has put into $FAKE_<NAME>.
RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "${0##*/} $*" >>"$FAKE_CALLS"
name=FAKE_${0##*/}
eval "${!name:-}"
"""
# Stands for the interpreter: `python -m trainer.main ...` runs it.
TRAINER = """#!{python}
import json, os, pathlib, signal, sys, time

def stop(number, frame):
    signal.signal(number, signal.SIG_IGN)
    print("saved", flush=True)
    sys.exit(143)

if os.environ.get("FAKE_DEAF"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, stop)
task = json.loads(os.environ.get("TF_CONFIG", '{{"task": {{"index": 0}}}}'))
index = task["task"]["index"]
seen = dict(config=task, argv=sys.argv[1:], pid=os.getpid())
seen["tpu"] = os.environ.get("TPU_NAME", "")
place = os.environ["FAKE_CALLS"] + ".worker" + str(index)
unfinished = pathlib.Path(place + ".tmp")
unfinished.write_text(json.dumps(seen))
print("step 1", flush=True)
print("warning", file=sys.stderr, flush=True)
unfinished.rename(place + ".json")
fate = os.environ.get("FAKE_FATES", "0,0").split(",")[index]
if fate == "wait":
    time.sleep(120)
sys.exit(int(fate))
"""


def free_port():
    """A port of this host at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(name="calls")
def _calls(tmp_path):
    """The file that notes the calls."""
    return tmp_path / "calls"


@pytest.fixture(name="fakes")
def _fakes(tmp_path):
    """A folder of programs that only note how they are called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gcloud", "kubectl", "scontrol", "srun", "ssh"):
        (folder / name).write_text(RECORDER)
        (folder / name).chmod(0o755)
    (folder / "trainer").write_text(TRAINER.format(python=sys.executable))
    (folder / "trainer").chmod(0o755)
    return folder


@pytest.fixture(name="environment")
def _environment(fakes, calls):
    """A function: settings -> the environment of a script."""

    def create(**settings):
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CLOZE_", "SLURM_", "TF_CONFIG"))
        }
        return {
            **clean,
            "PATH": f"{fakes}:{os.environ['PATH']}",
            "FAKE_CALLS": str(calls),
            "CLOZE_PYTHON": str(fakes / "trainer"),
            **settings,
        }

    return create


@pytest.fixture(name="launch")
def _launch(environment, tmp_path):
    """A function: a script of launch/ and its words -> the finished process.

    From another folder, because it must not matter where a script is called.
    """

    def run(script, *words, **settings):
        return subprocess.run(
            [ROOT / "launch" / script, *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(**settings),
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(name="refused")
def _refused(launch, calls):
    """A function like `launch` -> the one line with which it refuses."""

    def run(*words, **settings):
        result = launch(*words, **settings)
        assert result.returncode == 2, result
        assert not result.stdout
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    return run


def worker(calls, index):
    """What worker number `index` was started with, as soon as it runs."""
    path = pathlib.Path(f"{calls}.worker{index}.json")
    limit = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    return json.loads(path.read_text())
