"""`--mode=benchmark`: how fast, measured in one process."""

import json
import logging
import os
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from configs import schema
from configs.runtime import Runtime
from input_pipeline import manifest, prepare, pretraining
from trainer.commands import starting_point

_log = logging.getLogger(__name__)
_BATCHES_A_ROUND = 200


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: Runtime,
    callbacks: Sequence[Any] = (),
) -> None:
    """Prints a result and writes it to `<workdir>/benchmark-<what>.json`."""
    tokenizer = starting_point.tokenizer(config)
    prepared = manifest.open_prepared(prepare.prepare(config, tokenizer))
    result = measure_input(config, prepared)
    path = pathlib.Path(workdir) / f"benchmark-{config.benchmark.what}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        print(f"{name:<28}{value}")
    _log.info("written to %s", path)


def measure_input(
    config: schema.Config, prepared: manifest.Prepared
) -> dict[str, Any]:
    """Prepared rows to masked batches: tokens per second of this machine.

    The first round is thrown away; a round is 200 batches.
    """
    size = config.train.global_batch_size * config.data.sequence_length
    iterator = iter(pretraining.training_batches(prepared, config))
    seconds = []
    for _ in range(config.benchmark.num_rounds + 1):
        start = time.perf_counter()
        for _ in range(_BATCHES_A_ROUND):
            next(iterator)
        seconds.append(time.perf_counter() - start)
    rates = [_BATCHES_A_ROUND * size / s for s in seconds[1:]]
    return {
        "what": "input",
        "tokens_per_second_median": round(statistics.median(rates)),
        "tokens_per_second_minimum": round(min(rates)),
        "tokens_per_second_maximum": round(max(rates)),
        "milliseconds_per_batch": round(
            1000 * statistics.median(seconds[1:]) / _BATCHES_A_ROUND, 3
        ),
        "global_batch_size": config.train.global_batch_size,
        "sequence_length": config.data.sequence_length,
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "tensorflow": tf.__version__,
    }
