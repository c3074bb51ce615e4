"""A lease in an object store, which has no locks.

The holder rewrites an object every few seconds. A process that sees the object
change keeps away; if it does not change for 40 seconds, the holder was killed
or stopped, and the process takes the lease over.
"""

import contextlib
import logging
import os
import pathlib
import signal
import socket
import threading
from collections.abc import Iterator

_log = logging.getLogger(__name__)
_BEAT_SECONDS = 10.0
_SILENT_BEATS = 4  # After so many without a change the lease is free.
_held: dict[pathlib.Path, str] = {}  # Object -> what this process wrote in it.


class LostLeaseError(ValueError):
    """Another process has taken over what this one was the only one to write.

    It happens to a process that showed no sign of life for 40 seconds: it was
    stopped, or its network was cut.
    """


@contextlib.contextmanager
def held(path: pathlib.Path, *, busy: str) -> Iterator[None]:
    """Holds the lease: rewrites `path` every few seconds, then removes it.

    Two processes that begin at the same moment do not see each other; the one
    whose object was replaced sends itself SIGTERM as soon as it notices.

    Args:
      path: of the object.
      busy: the message of the ValueError if another holder is alive.
    """
    _await_silence(path, busy)
    _held[path] = own = (
        f"{socket.gethostname()} {os.getpid()} {os.urandom(8).hex()}"
    )
    path.write_text(own)
    ended = threading.Event()
    beating = threading.Thread(
        target=_beat, args=(path, own, ended), daemon=True
    )
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        del _held[path]
        if _read(path).startswith(own):
            path.unlink(missing_ok=True)


def require(path: pathlib.Path) -> None:
    """Call it before each change in an object store.

    Raises:
      LostLeaseError: this process held a lease on a folder around `path`, and
        another process has it now, or has had it since.
    """
    for lock, own in [*_held.items()]:
        if lock.parent in path.parents and not _read(lock).startswith(own):
            raise LostLeaseError(
                f"{lock}: another process took over while this one was"
                " stopped or had no network for 40 seconds. Nothing has been"
                " saved or deleted since; the other one goes on."
            )


def _await_silence(path: pathlib.Path, busy: str) -> None:
    if not (seen := _read(path)):
        return
    _log.info(
        "%s: waiting up to %.0f s to see whether %s is alive",
        path,
        _SILENT_BEATS * _BEAT_SECONDS,
        seen,
    )
    for _ in range(_SILENT_BEATS):
        threading.Event().wait(_BEAT_SECONDS)
        now = _read(path)
        if not now:
            return  # It has ended.
        if now != seen:
            raise ValueError(busy)


def _beat(path: pathlib.Path, own: str, ended: threading.Event) -> None:
    number = 0
    while not ended.wait(_BEAT_SECONDS):
        number += 1
        try:
            if not (now := _read(path)).startswith(own):
                _log.error(
                    "%s: %s has taken over; this run stops",
                    path,
                    now or "another process",
                )
                os.kill(os.getpid(), signal.SIGTERM)
                return
            path.write_text(f"{own} {number}")
        except Exception as error:  # The network's; the next one may succeed.
            _log.warning("%s cannot be written: %s", path, error)


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
