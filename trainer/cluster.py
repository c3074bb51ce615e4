"""The processes of `--strategy=multi_worker`: who they are, and who answers.

TensorFlow would wait for a missing worker forever, without reacting to signals
or naming it; plain sockets do better. TensorFlow is not imported here, so that
a bad TF_CONFIG is refused within a second.
"""

import contextlib
import dataclasses
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

from configs import runtime
from configs.checks import MALFORMED, require

_log = logging.getLogger(__name__)
_JOBS = ("chief", "worker")
_EXAMPLE = (
    "write it on every host like"
    ' {"cluster": {"worker": ["host1:2222", "host2:2222"]},'
    ' "task": {"type": "worker", "index": 0}}.'
)
_ANSWER_SECONDS = 5.0  # How long a worker may take to answer.
_FAILURES = 3  # A worker that fails to answer so often in a row is lost.
_START_SECONDS = 600.0  # How long to wait for the others at the start.
_REMIND_SECONDS = 60.0


class LostError(Exception):
    """A worker never started or is gone; once all run, the run goes on."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """All processes of a run.

    Attributes:
      addresses: "host:port" by name, such as "worker 0"; the chief's first.
      me: the name of this process.
    """

    addresses: dict[str, str]
    me: str

    def wait_for_all(self, *, limit: float = _START_SECONDS) -> None:
        """Returns once every worker has been seen.

        Raises:
          ValueError: the port of this process is taken.
          LostError: a worker did not appear within `limit` seconds.
        """
        begin = reminded = time.monotonic()
        missing = self._others
        # The others see this process until TensorFlow listens on its port.
        with self._listener():
            while missing := self._silent(missing, _listens):
                now = time.monotonic()
                if now - begin > limit:
                    raise LostError(
                        f"{self._described(missing)} did not come within"
                        f" {limit:.0f} seconds; start all workers, with the"
                        " same TF_CONFIG but for task.index, and look at what"
                        " the missing ones say"
                    )
                if now - reminded > _REMIND_SECONDS:
                    reminded = now
                    _log.info("still missing: %s", self._described(missing))
                time.sleep(0.2)

    def check(self) -> None:
        """Raises LostError, with their names, if workers do not answer."""
        silent = self._others
        for _ in range(_FAILURES):
            silent = self._silent(silent, _answers)
        if silent:
            raise LostError(
                f"lost {self._described(silent)}: the process is dead or"
                " frozen, or the way there is cut; once all workers run again,"
                " the same command resumes"
            )

    def watch(self, act: Callable[[], None]) -> None:
        """Calls `act`, in another thread, once a worker stays silent.

        TensorFlow notices by itself when a process dies, but it may wait
        forever for one that is frozen or behind a dead link.
        """

        def look() -> None:
            addresses = [self.addresses[name] for name in self._others]
            failures = 0
            while failures < _FAILURES:
                time.sleep(_ANSWER_SECONDS)
                there = all(map(_answers, addresses))
                failures = 0 if there else failures + 1
            act()

        threading.Thread(target=look, daemon=True).start()

    @property
    def _others(self) -> list[str]:
        return [name for name in self.addresses if name != self.me]

    def _silent(
        self, names: list[str], ask: Callable[[str], bool]
    ) -> list[str]:
        """Those of the workers that `ask` does not reach, all asked at once."""
        if not names:
            return []
        with futures.ThreadPoolExecutor(len(names)) as pool:
            answers = pool.map(ask, (self.addresses[name] for name in names))
            return [
                name
                for name, there in zip(names, answers, strict=True)
                if not there
            ]

    def _described(self, names: Iterable[str]) -> str:
        return ", ".join(f"{name} ({self.addresses[name]})" for name in names)

    def _listener(self) -> socket.socket:
        _, port = _host_and_port(self.addresses[self.me])
        both = socket.has_dualstack_ipv6()
        try:
            return socket.create_server(
                ("", port),
                family=socket.AF_INET6 if both else socket.AF_INET,
                dualstack_ipv6=both,
            )
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise ValueError(
                f"TF_CONFIG: {self.me} cannot listen on port {port} of this"
                f" host ({reason}); stop what listens there, or give it"
                " another port on all hosts."
            ) from error


def from_environment() -> Cluster:
    """The cluster that TF_CONFIG describes.

    Raises:
      ValueError: it describes none, or one that cannot work.
    """
    text = os.environ.get("TF_CONFIG", "")
    require(
        bool(text),
        "--strategy=multi_worker needs the environment variable TF_CONFIG;"
        f" {_EXAMPLE}",
    )
    try:
        content = json.loads(text)
        jobs, kind = content["cluster"], content["task"]["type"]
        index = int(content["task"]["index"])
        lists = all(isinstance(hosts, list) for hosts in jobs.values())
        if not (lists and isinstance(kind, str)):
            raise TypeError(
                "addresses come in lists, and task.type is a string"
            )
    except MALFORMED as error:
        raise ValueError(
            "TF_CONFIG must be JSON with a cluster of lists of addresses, and a"
            f" task with type and index; found {text[:200]!r}"
            f" ({type(error).__name__}: {error}); {_EXAMPLE}"
        ) from error
    return _checked(jobs, kind, index)


@contextlib.contextmanager
def watched(layout: runtime.Runtime) -> Iterator[None]:
    """If TensorFlow fails in the block, looks for workers that are gone.

    Raises:
      LostError: names them, in place of TensorFlow's error.
    """
    try:
        yield
    except Exception as error:
        foreign = type(error).__module__.startswith("tensorflow")
        if foreign and layout.strategy == "multi_worker":
            from_environment().check()
        raise


def _checked(jobs: dict[str, list[Any]], kind: Any, index: int) -> Cluster:
    unknown = sorted({*jobs} - {*_JOBS})
    require(
        not unknown and "worker" in jobs,
        f"TF_CONFIG: the cluster has {', '.join(jobs) or 'no jobs'}; give it"
        " workers, and at most one chief besides.",
    )
    require(
        len(jobs.get("chief", [])) < 2, "TF_CONFIG: there can be one chief."
    )
    require(
        kind in jobs,
        f"TF_CONFIG: task.type={kind!r} is not in the cluster, which has"
        f" {' and '.join(jobs)}.",
    )
    require(
        0 <= index < len(jobs[kind]),
        f"TF_CONFIG: task.index={index} is out of range for"
        f" {len(jobs[kind])} {kind}(s), which count from 0.",
    )
    addresses = {
        f"{job} {number}": address
        for job in _JOBS
        for number, address in enumerate(jobs.get(job, []))
    }
    names: dict[str, str] = {}
    for name, address in addresses.items():
        require(
            _host_and_port(address) != ("", 0),
            f"TF_CONFIG: {name} has the address {address!r}; write host:port.",
        )
        require(
            address not in names,
            f"TF_CONFIG: {names.get(address)} and {name} both have the address"
            f" {address}; give every process its own.",
        )
        names[address] = name
    return Cluster(addresses, f"{kind} {index}")


def _host_and_port(address: Any) -> tuple[str, int]:
    """Splits "host:port"; ("", 0) if the address has another form."""
    host, _, port = str(address).rpartition(":")
    good = host and port.isdecimal() and 0 < int(port) < 2**16
    return (host.strip("[]"), int(port)) if good else ("", 0)


def _listens(address: str) -> bool:
    """Whether a process, frozen or not, listens at an address."""
    try:
        _connect(address).close()
    except OSError:
        return False
    return True


def _answers(address: str) -> bool:
    """Whether TensorFlow's server is alive there: it speaks first."""
    try:
        with _connect(address) as connection:
            return bool(connection.recv(1))
    except OSError:
        return False


def _connect(address: str) -> socket.socket:
    return socket.create_connection(
        _host_and_port(address), timeout=_ANSWER_SECONDS
    )
