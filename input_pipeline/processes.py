"""Importing TensorFlow without its start-up chatter."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection
from types import ModuleType


def import_module(name: str) -> ModuleType:
    """The module; what the libraries log while they load is dropped.

    TensorFlow 2.21 writes some lines before it reads TF_CPP_MIN_LOG_LEVEL.
    Another level than 3 in the environment lets everything through.
    """
    with _silence():
        return importlib.import_module(name)


def start_worker(name: str) -> None:
    """Sets up a worker process and imports the module that it works with.

    It sees no GPU, ends on Ctrl-C without a word, and ends with its parent:
    the executor alone would let it wait for ever after a `kill -9`.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import_module(name)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only for processes of multiprocessing"
    connection.wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        yield
        return
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
