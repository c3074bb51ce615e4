"""Importing TensorFlow without its start-up chatter."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from types import ModuleType


def import_module(name: str) -> ModuleType:
    """The module; what the libraries log while they load is dropped.

    TensorFlow 2.21 writes some lines before it reads TF_CPP_MIN_LOG_LEVEL.
    Another level than 3 in the environment lets everything through.
    """
    with _silence():
        return importlib.import_module(name)


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
