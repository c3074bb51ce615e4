"""`--mode=benchmark`: how fast, measured in one process."""

import json
import logging
import os

import tensorflow as tf

import storage
from trainer.commands.benchmarks import input as input_benchmark
from trainer.commands.benchmarks import serving, step
from trainer.run import Run

_log = logging.getLogger(__name__)
MEASURES = {
    "step": step.measure,
    "input": input_benchmark.measure,
    "serving": serving.measure,
}


def run(run: Run) -> None:
    """Prints a result and writes it to `<workdir>/benchmark-<what>.json`."""
    what = run.config.benchmark.what
    result = {
        "what": what,
        **MEASURES[what](run),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "tensorflow": tf.__version__,
    }
    path = storage.path_of(run.workdir) / f"benchmark-{what}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:<{width}}  {value}")
    _log.info("written to %s", path)
