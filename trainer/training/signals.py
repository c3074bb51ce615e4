"""Ctrl-C, SIGTERM and SIGHUP, seen while TensorFlow computes."""

import os
import signal
import socket
import threading
from types import FrameType
from typing import Any, Self

import tensorflow as tf

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignal:
    """While active, signals ask for a stop instead of killing the process.

    Python runs its handlers between two bytecodes, and a call of many steps
    is one bytecode. So a thread waits for the byte that the C handler writes
    and raises a flag that the running graph reads at every step.

    Attributes:
      flag: float32 []; above 0 once a stop has been asked for.
      number: the signal that asked, or 0.
    """

    def __init__(self) -> None:
        with tf.device("CPU:0"):
            self.flag = tf.Variable(0.0, trainable=False, name="stop")
        self.number = 0
        self._previous: dict[int, Any] = {}

    def request(self, number: int) -> None:
        """Asks for a stop, as the signal of that number would."""
        if self.number and number == signal.SIGINT:
            os._exit(128 + number)  # The second Ctrl-C does not wait.
        self.number = self.number or number
        self.flag.assign(1.0)

    def __enter__(self) -> Self:
        """Handles the signals; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(
            self._writer.fileno(), warn_on_full_buffer=False
        )
        for number in _STOPPING:
            if (
                number == signal.SIGHUP
                and signal.getsignal(number) is signal.SIG_IGN
            ):
                continue  # Started by `nohup`.
            self._previous[number] = signal.signal(number, _ignore)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Restores the previous handlers."""
        if not self._previous:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._previous.items():
            # None stands for a handler that was not set by Python.
            signal.signal(number, handler or signal.SIG_DFL)
        self._previous.clear()
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _watch(self) -> None:
        while received := self._reader.recv(1):
            if received[0] in _STOPPING:
                self.request(received[0])


def _ignore(number: int, frame: FrameType | None) -> None:
    """Does nothing: the byte on the wake-up socket is what counts."""
