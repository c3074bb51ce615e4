"""Worker processes, and importing TensorFlow without its start-up messages.

Nothing here imports TensorFlow by itself.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import process
from multiprocessing import connection
from types import ModuleType
from typing import Any

# `map`, in this process or over several.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


def num_cores() -> int:
    """How many cores this process may use: taskset and Slurm limit them."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def pool(module: str, num_processes: int, num_tasks: int) -> Iterator[Map]:
    """Yields a `map` that keeps the order, over processes where that pays.

    Args:
      module: what each process imports when it starts.
      num_processes: how many at most; 0 = one for each usable core.
      num_tasks: how many there are to do.

    Raises:
      ValueError: a process was killed.
    """
    wanted = min(num_processes or num_cores(), num_tasks)
    if wanted <= 1:
        yield map
        return
    with process.ProcessPoolExecutor(
        wanted,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(module,),
    ) as executor:
        try:
            yield executor.map
        except process.BrokenProcessPool as error:
            raise ValueError(
                "A process that prepares the text was killed, most likely for"
                " lack of memory; try --config.data.num_processes=1."
            ) from error
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def import_module(name: str) -> ModuleType:
    """The module, imported without the messages of its libraries.

    TensorFlow 2.21 writes some lines before it reads TF_CPP_MIN_LOG_LEVEL.
    Another level than 3 in the environment lets everything through.
    """
    with _silence():
        return importlib.import_module(name)


def start_worker(name: str) -> None:
    """Sets up a worker process and imports the module that it works with.

    The process sees no GPU, ends silently on Ctrl-C, and ends with its parent:
    after a `kill -9` the executor alone would leave it waiting for ever.
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
