"""`benchmark.what=serving`: strings in, answers out, from the export."""

import itertools
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf

import storage
from configs import schema
from input_pipeline import cleaning, sources
from trainer.run import Run
from trainer.serving import loading

_CALLS = {1: 100, 64: 10}  # Texts of one call -> calls of a round.
# A process that knows TensorFlow alone, and with word pieces TensorFlow Text:
# from its start to the first answer.
_COLD_START = """
import json, sys, time
start = time.perf_counter()
import tensorflow as tf
imported = time.perf_counter()
module = tf.saved_model.load(sys.argv[1])
answer = module.signatures[sys.argv[2]]
loaded = time.perf_counter()
text = tf.constant([sys.stdin.buffer.read()])
tf.nest.map_structure(lambda value: value.numpy(), answer(text=text))
answered = time.perf_counter()
print(json.dumps([imported - start, loaded - imported, answered - loaded]))
"""


def measure(run: Run) -> dict[str, Any]:
    """Texts per second, time of a call, and the start of a fresh process.

    The texts are training documents as they are stored, in their order; calls
    of the sizes take turns, round by round; the first round is thrown away.
    What answers is `classify`, or `embed` where there is no classifier.
    """
    config = run.config
    directory = loading.directory_of(run.workdir, config.predict.export_dir)
    exported = loading.load(directory)
    name = "classify" if "classify" in exported.signatures else "embed"
    texts = _texts(config.data, number=max(s * n for s, n in _CALLS.items()))
    num_rounds = config.benchmark.num_rounds
    seconds = {n: np.zeros([num_rounds + 1, _CALLS[n]]) for n in _CALLS}
    for number, (size, timed) in itertools.product(
        range(num_rounds + 1), seconds.items()
    ):
        for call in range(_CALLS[size]):
            batch = tf.constant(texts[call * size :][:size])
            start = time.perf_counter()
            answers = exported.signatures[name](text=batch)
            tf.nest.map_structure(lambda value: value.numpy(), answers)
            timed[number, call] = time.perf_counter() - start
    result = {
        "signature": name,
        "bytes_per_text": round(sum(map(len, texts)) / len(texts)),
    }
    for size, timed in seconds.items():
        timed = timed[1:]
        rates = size * timed.shape[1] / timed.sum(axis=1)
        found = {"texts_per_second": round(float(np.median(rates)), 1)}
        for percent in (50, 99):
            milliseconds = 1000 * float(np.percentile(timed, percent))
            found[f"milliseconds_p{percent}"] = round(milliseconds, 2)
        result |= {f"batch_{size}_{key}": value for key, value in found.items()}
    return result | _cold_start(directory, name, texts[0])


def _texts(data: schema.DataConfig, *, number: int) -> list[bytes]:
    """The first documents; they repeat where there are fewer than `number`."""
    units = [u for u in sources.list_units(data) if u.split == "train"]
    counts = cleaning.Counts()
    documents = (d.raw for u in units for d in sources.read(data, u, counts))
    first = list(itertools.islice(filter(None, documents), number))
    if not first:
        raise ValueError("There is no document to benchmark with.")
    return list(itertools.islice(itertools.cycle(first), number))


def _cold_start(directory: str, name: str, text: bytes) -> dict[str, float]:
    """Seconds of a fresh process: in all, and what they go to."""
    model = storage.path_of(directory) / loading.FOLDER
    start = time.perf_counter()
    printed = subprocess.run(
        [sys.executable, "-c", _COLD_START, str(model), name],
        input=text,
        capture_output=True,
        check=True,
    ).stdout
    total = time.perf_counter() - start
    parts = json.loads(printed.splitlines()[-1])
    names = ("import", "load", "first_answer")
    return {"cold_start_seconds": round(total, 2)} | {
        f"cold_start_seconds_{name}": round(part, 2)
        for name, part in zip(names, parts, strict=True)
    }
