"""The trainer, with a SIGTERM to itself in the midst of what it does."""

import contextlib
import json
import os
import signal
import threading

from trainer import checkpoint
from trainer import main as cli
from trainer.stages import tasks
from trainer.training import loop


class Aim:
    """Sends it `seconds` after the call of that number in `place` began.

    Attributes:
      told: where it was `found` when that came, and the step then `reached`.
    """

    def __init__(self, place, number, seconds):
        self.told = {}
        self._place, self._number, self._seconds = place, number, seconds
        self._calls, self._inside = [], ["elsewhere"]

    def _send(self):
        self.told["found"] = self._inside[-1]
        os.kill(os.getpid(), signal.SIGTERM)

    @contextlib.contextmanager
    def at(self, place):
        """The block is a call of `place`."""
        self._calls.append(place)
        self._inside.append(place)
        here = place == self._place
        if here and self._calls.count(place) == self._number:
            threading.Timer(self._seconds, self._send).start()
        try:
            yield
        finally:
            self._inside.pop()

    def placed(self, place, function):
        """The function as `place`."""

        def call(*args, **kwargs):
            with self.at(place):
                return function(*args, **kwargs)

        return call

    def train_call(self, train):
        """A call of steps; the first one is the place `compiling`."""

        def call(iterator, step, limit):
            compiled = "compiling" in self._calls
            with self.at("step" if compiled else "compiling"):
                done, *others = train(iterator, step, limit)
                self.told["reached"] = int(step) + int(done)
            return done, *others

        return call


def main(place, number, seconds, worker, *argv):
    """Trains with these flags; prints what became of the aim at `worker`."""
    config = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))
    if config["task"]["index"] != int(worker):
        place = "nowhere"
    aim = Aim(place, int(number), float(seconds))
    create = tasks.Task.create_train_call
    tasks.Task.create_train_call = lambda *args: aim.train_call(create(*args))
    saves = checkpoint.Checkpoints
    saves.save = aim.placed("save", saves.save)
    loop.evaluate = aim.placed("evaluation", loop.evaluate)
    code = cli.main(argv)
    print(json.dumps(aim.told))
    return code
