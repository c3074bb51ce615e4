"""Who is in a cluster, and who answers; sockets stand for workers."""

import contextlib
import json
import math
import re
import signal
import socket
import socketserver
import threading

import pytest

from configs import runtime
from trainer import cluster as cluster_lib

WORKERS = {"worker": ["a:1", "b:1"]}


def tf_config(monkeypatch, cluster, kind="worker", index=0):
    task = {"type": kind, "index": index}
    text = json.dumps({"cluster": cluster, "task": task})
    monkeypatch.setenv("TF_CONFIG", text)


def test_a_good_tf_config(monkeypatch):
    tf_config(monkeypatch, WORKERS, index="1")
    read = cluster_lib.from_environment()
    assert read.addresses == {"worker 0": "a:1", "worker 1": "b:1"}
    assert read.me == "worker 1"
    with_chief = {"worker": ["[::1]:1"], "chief": ["c:65535"]}
    tf_config(monkeypatch, with_chief, kind="chief")
    read = cluster_lib.from_environment()
    expected = {"chief 0": "c:65535", "worker 0": "[::1]:1"}
    assert [*read.addresses.items()] == [*expected.items()]
    assert read.me == "chief 0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "needs the environment variable TF_CONFIG.*host1:2222"),
        ("{", r"must be JSON .* found '{' \(.*Expecting .*host1:2222"),
        ("[" * 20_000, r"found '\[{200}' \(RecursionError"),
        ('{"cluster": {"worker": ["a:1"]}}', "KeyError: 'task'"),
        (({"worker": "a:1"}, "worker", 0), "addresses come in lists"),
        ((WORKERS, ["worker"], 0), "task.type is a string"),
        ((WORKERS, "worker", math.inf), "a task with type and index"),
        ((WORKERS, "worker", "2"), r"index=2 is out of range for 2 worker"),
        ((WORKERS, "worker", -1), "index=-1 is out of range"),
        ((WORKERS, "chief", 0), "type='chief' is not in .*, which has worker"),
        (({}, "worker", 0), "the cluster has no jobs; give it workers"),
        (({**WORKERS, "ps": ["c:1"]}, "worker", 0), "has worker, ps; give"),
        (({**WORKERS, "chief": ["c:1", "d:1"]}, "chief", 0), "one chief"),
        (
            ({**WORKERS, "chief": ["a:1"]}, "worker", 0),
            "chief 0 and worker 0 both have the address a:1",
        ),
        (({"worker": ["a"]}, "worker", 0), "worker 0 has the address 'a'"),
        (({"worker": ["a:0"]}, "worker", 0), "has the address 'a:0'"),
        (({"worker": ["a:65536"]}, "worker", 0), "the address 'a:65536'"),
    ],
)
def test_a_bad_tf_config(monkeypatch, text, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if isinstance(text, tuple):
        tf_config(monkeypatch, *text)
    elif text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message) as caught:
        cluster_lib.from_environment()
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def listening(number):
    """Addresses on this host at which somebody listens."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(number)
        ]
        yield [f"127.0.0.1:{s.getsockname()[1]}" for s in servers]


class Greeter(socketserver.BaseRequestHandler):
    """Speaks first, as TensorFlow's server does."""

    def handle(self):
        self.request.sendall(b"\0")


@contextlib.contextmanager
def greeting(number):
    """Addresses on this host at which somebody listens and speaks."""
    with contextlib.ExitStack() as stack:
        addresses = []
        for _ in range(number):
            server = socketserver.TCPServer(("127.0.0.1", 0), Greeter)
            stack.enter_context(server)
            threading.Thread(target=server.serve_forever, args=[0.01]).start()
            stack.callback(server.shutdown)
            addresses.append(f"127.0.0.1:{server.server_address[1]}")
        yield addresses


@pytest.fixture
def free():
    """Three addresses on this host at which nobody listens."""
    with listening(3) as addresses:
        pass
    return addresses


def cluster_of(addresses, me=0):
    named = {f"worker {i}": address for i, address in enumerate(addresses)}
    return cluster_lib.Cluster(named, f"worker {me}")


def test_all_wait_until_the_last_one_comes(free):
    back = []

    def wait(index):
        cluster_of(free, index).wait_for_all()
        # As TensorFlow would now; the others may still be looking.
        _, port = free[index].split(":")
        back.append(socket.create_server(("", int(port))))

    threads = [threading.Thread(target=wait, args=[i]) for i in range(3)]
    for thread in threads[:2]:
        thread.start()
    threads[0].join(timeout=0.7)
    assert not back
    threads[2].start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(back) == 3
    for server in back:
        server.close()


def test_who_does_not_come_is_named(free, monkeypatch, caplog):
    monkeypatch.setattr(cluster_lib, "_REMIND_SECONDS", 0.1)
    with listening(1) as [there]:
        cluster = cluster_of([free[0], there, free[1], free[2]])
        with (
            caplog.at_level("INFO"),
            pytest.raises(cluster_lib.LostError) as caught,
        ):
            cluster.wait_for_all(limit=0.5)
    missing = f"worker 2 ({free[1]}), worker 3 ({free[2]})"
    assert str(caught.value).startswith(f"{missing} did not come within")
    assert f"still missing: {missing}" in caplog.messages


def test_a_port_in_use_is_refused(free):
    with (
        listening(1) as [taken],
        pytest.raises(ValueError, match="worker 0 .*Address already in use"),
    ):
        cluster_of([taken, free[0]]).wait_for_all()


def test_lost_workers_are_named(free):
    cluster_of(free[:1]).check()  # One waits for nobody.
    cluster_of(free[:1]).wait_for_all(limit=0)
    with greeting(2) as there:
        cluster_of([free[0], *there]).check()
        cluster = cluster_of([there[0], free[1], there[1], free[2]])
        lost = f"lost worker 1 ({free[1]}), worker 3 ({free[2]}): "
        with pytest.raises(cluster_lib.LostError, match=re.escape(lost)):
            cluster.check()


def test_a_frozen_worker_is_lost(free, monkeypatch):
    monkeypatch.setattr(cluster_lib, "_ANSWER_SECONDS", 0.2)
    # The system of a frozen process goes on letting others in.
    with greeting(1) as [there], listening(1) as [frozen]:
        cluster = cluster_of([free[0], there, frozen])
        with pytest.raises(
            cluster_lib.LostError, match=r"^lost worker 2 \([^,]*: .* frozen"
        ):
            cluster.check()


def test_a_worker_that_stays_silent_is_noticed(monkeypatch):
    monkeypatch.setattr(cluster_lib, "_ANSWER_SECONDS", 0.05)
    noticed, asked, answers = threading.Event(), [], [True, False, False, True]

    def answer(address):
        asked.append(address)
        assert not noticed.is_set()
        return answers.pop(0) if answers else False

    monkeypatch.setattr(cluster_lib, "_answers", answer)
    cluster_of(["a:1", "b:1"]).watch(noticed.set)
    assert noticed.wait(timeout=30)
    # Two failures, then an answer, then three in a row.
    assert asked == ["b:1"] * 7


MULTI = runtime.Runtime("multi_worker")


class UnavailableError(Exception):
    """Stands for TensorFlow's."""

    __module__ = "tensorflow.python.framework.errors_impl"


def test_an_error_of_tensorflow_names_the_workers_that_are_lost(
    monkeypatch, free
):
    with greeting(2) as there:
        tf_config(monkeypatch, {"worker": there})
        with (
            pytest.raises(UnavailableError, match="reset"),
            cluster_lib.watched(MULTI),
        ):
            raise UnavailableError("Connection reset by peer")
    tf_config(monkeypatch, {"worker": free[:2]})
    with (
        pytest.raises(cluster_lib.LostError, match="lost worker 1") as caught,
        cluster_lib.watched(MULTI),
    ):
        raise UnavailableError("Connection reset by peer")
    assert "reset by peer" in str(caught.value.__context__)


@pytest.mark.parametrize(
    "error",
    [runtime.Stopped(signal.SIGTERM), KeyboardInterrupt(), KeyError("a bug")],
)
def test_what_is_not_of_tensorflow_has_its_own_reason(monkeypatch, free, error):
    tf_config(monkeypatch, {"worker": free[:2]})
    with pytest.raises(type(error)) as caught, cluster_lib.watched(MULTI):
        raise error
    assert caught.value is error
    monkeypatch.setenv("TF_CONFIG", "{")
    one = runtime.Runtime("one_device")
    with pytest.raises(UnavailableError), cluster_lib.watched(one):
        raise UnavailableError  # One host looks for nobody.
