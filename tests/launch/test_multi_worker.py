"""Several hosts, played by this one; the trainer is a fake."""

import functools
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess

import pytest

from tests.launch import conftest

SCRIPT = "multi_worker.sh"
# An ssh that goes nowhere: the command runs here.
SSH = 'exec bash -c "${@: -1}"'


@pytest.fixture(name="seen")
def _seen(calls):
    """A function: what worker number i was started with."""
    return functools.partial(conftest.worker, calls)


@pytest.fixture(name="started")
def _started(environment):
    """A function like `launch`, for a process that is not waited for."""

    def start(*words, **settings):
        return subprocess.Popen(
            [conftest.ROOT / "launch" / SCRIPT, *words],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(FAKE_FATES="wait,wait", **settings),
            start_new_session=True,
            # A shell cannot trap what was ignored when it began, as in CI.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def lives(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_local_workers_know_each_other(launch, seen):
    result = launch(SCRIPT, "--local=2", "--", "--config.a=x  y")
    assert result.returncode == 0, result
    assert sorted(result.stdout.splitlines()) == [
        "[0] step 1",
        "[0] warning",
        "[1] step 1",
        "[1] warning",
    ]
    zero, one = seen(0), seen(1)
    workers = zero["config"]["cluster"]["worker"]
    assert len(set(workers)) == 2
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", each) for each in workers)
    assert one["config"]["cluster"] == {"worker": workers}
    for index, worker in enumerate((zero, one)):
        assert worker["config"]["task"] == {"type": "worker", "index": index}
        assert worker["argv"] == [
            "-m",
            "trainer.main",
            "--strategy=multi_worker",
            "--config.a=x  y",
        ]


# Not Ctrl-C to the whole group: the fake trainer leaves that as it is.
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_on_all_workers(number, started, seen):
    process = started("--local=2")
    pids = [seen(index)["pid"] for index in range(2)]
    to_all = number == signal.SIGTERM
    (os.killpg if to_all else os.kill)(process.pid, number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143, out
    assert out.count("saved") == 2
    assert not any(map(lives, pids))


def test_the_first_failure_stops_the_others(launch, seen):
    result = launch(SCRIPT, "--local=2", FAKE_FATES="wait,7")
    assert result.returncode == 7
    assert "[1] ended with exit code 7; stopping the others" in result.stdout
    assert "[0] saved" in result.stdout
    assert not lives(seen(0)["pid"])


def test_a_killed_worker_ends_the_job(started, seen):
    process = started("--local=2")
    seen(0)
    os.kill(seen(1)["pid"], signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 137
    assert "[0] saved" in out


def test_who_does_not_stop_is_killed_after_the_grace(started, seen):
    process = started("--local=2", "--grace=1", FAKE_DEAF="1")
    pids = [seen(index)["pid"] for index in range(2)]
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 137
    assert not any(map(lives, pids))


def test_hosts_over_ssh(launch, seen, calls):
    ports = conftest.free_port(), conftest.free_port()
    hosts = f"ada@one:{ports[0]},two:{ports[1]}"
    result = launch(
        SCRIPT, f"--hosts={hosts}", "--", "--config.a=it's", FAKE_ssh=SSH
    )
    assert result.returncode == 0, result
    lines = calls.read_text().splitlines()
    assert {line.split(" cd ")[0].split()[-1] for line in lines} == {
        "ada@one",
        "two",
    }
    for index in range(2):
        assert seen(index)["config"] == {
            "cluster": {"worker": [f"one:{ports[0]}", f"two:{ports[1]}"]},
            "task": {"type": "worker", "index": index},
        }
        assert seen(index)["argv"][-1] == "--config.a=it's"


# The standard input of a worker ends with its launcher.
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_signal_crosses_ssh(number, code, started, seen):
    hosts = f"one:{conftest.free_port()},two:{conftest.free_port()}"
    process = started(f"--hosts={hosts}", FAKE_ssh=SSH)
    pids = [seen(index)["pid"] for index in range(2)]
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert out.count("saved") == 2
    assert not any(map(lives, pids))


def test_a_lost_host_stops_the_others(launch):
    hosts = f"one:{conftest.free_port()},two:{conftest.free_port()}"
    lost = """if [[ $* == *" two "* ]]; then
      until [[ -e $FAKE_CALLS.worker0.json ]]; do sleep 0.05; done
      exit 255
    fi
    """
    result = launch(
        SCRIPT, f"--hosts={hosts}", FAKE_ssh=lost + SSH, FAKE_FATES="wait,wait"
    )
    assert result.returncode == 255
    assert "[0] saved" in result.stdout


def test_dry_run_shows_every_command_and_the_environment(launch):
    words = ("--dry_run", "--hosts=a,b", "--folder=/my code", "--port=3333")
    shown = launch(SCRIPT, *words).stdout.splitlines()
    assert len(shown) == 2
    for index, line in enumerate(shown):
        *_, host, command = shlex.split(line)
        assert host == "ab"[index]
        assert command == (
            "cd '/my code' && exec launch/multi_worker.sh"
            f" --hosts=a:3333,b:3333 --index={index} --grace=40"
            " --until_eof=yes --"
        )
    assert (
        """'TF_CONFIG={"cluster": {"worker": ["a:3333", "b:3333"]},"""
        """ "task": {"type": "worker", "index": 1}}'"""
        in launch(SCRIPT, *words, "--index=1").stdout
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--hosts is empty"),
        (("--hosts=a,b,a",), "--hosts names a:2222 twice"),
        (("--local=0",), "--local=0 must be a whole number from 1"),
        (("--local=two",), "--local=two must be a whole number from 1"),
        (("--hosts=a", "--port=0"), "--port=0 must be"),
        (("--hosts=a", "--grace=x"), "--grace=x must be"),
        (("--hosts=a,b", "--index=2"), "--index=2 must be a whole number"),
    ],
)
def test_bad_input_starts_nothing(words, says, refused, calls):
    assert says in refused(SCRIPT, *words)
    assert not calls.exists()


def test_a_port_in_use_is_named(refused):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        line = refused(SCRIPT, f"--hosts=a:{port}", "--index=0")
    assert f"port {port} is in use" in line
    assert "--port" in line
