"""`--mode=benchmark`: how fast, measured in one process."""

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

import storage
from configs import schema
from configs.runtime import Runtime
from trainer.commands.benchmarks import input as input_benchmark
from trainer.commands.benchmarks import serving, step

_log = logging.getLogger(__name__)
_MEASURES = {
    "step": step.measure,
    "input": input_benchmark.measure,
    "serving": serving.measure,
}


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: Runtime,
    callbacks: Sequence[Any] = (),
) -> None:
    """Prints a result and writes it to `<workdir>/benchmark-<what>.json`."""
    what = config.benchmark.what
    result = {
        "what": what,
        **_MEASURES[what](config, workdir, runtime),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "tensorflow": tf.__version__,
    }
    path = storage.path_of(workdir) / f"benchmark-{what}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:<{width}}  {value}")
    _log.info("written to %s", path)
