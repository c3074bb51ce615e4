"""`benchmark.what=input`: text to ids, and prepared rows to masked batches."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from configs import schema
from configs.runtime import Runtime
from input_pipeline import cleaning, manifest, pretraining, sources
from trainer.run import Run

_BATCHES_A_ROUND = 200
_DOCUMENTS_A_ROUND = 2000


def measure(
    config: schema.Config, workdir: str, runtime: Runtime
) -> dict[str, Any]:
    """Tokens per second of this machine, and of one core of it.

    A round is 200 batches, taken one by one in a graph, as training takes
    them, their padding counted, as it is work too; and the first 2,000
    documents, cleaned and encoded. The first round is thrown away. What a core
    does follows from the processor time of all threads.
    """
    prepared = Run(config, workdir="", runtime=runtime).rows
    num_rounds = config.benchmark.num_rounds
    raw = _documents(config)
    encoding = [
        _timed(lambda: _encode(raw, prepared)) for _ in range(num_rounds + 1)
    ]
    size = config.train.global_batch_size * config.data.sequence_length
    iterator = iter(pretraining.training_batches(prepared, config))
    number = tf.constant(_BATCHES_A_ROUND)
    batches = [
        _timed(
            lambda: int(_take(iterator, number)) * config.data.sequence_length
        )
        for _ in range(num_rounds + 1)
    ]
    rates, rates_a_core = _rates(batches[1:])
    return {
        "tokens_per_second_median": round(statistics.median(rates)),
        "tokens_per_second_minimum": round(min(rates)),
        "tokens_per_second_maximum": round(max(rates)),
        "tokens_per_second_a_core": round(statistics.median(rates_a_core)),
        "milliseconds_per_batch": round(
            1000 * size / statistics.median(rates), 3
        ),
        "text_to_ids_tokens_per_second_a_core": round(
            statistics.median(_rates(encoding[1:])[1])
        ),
        "text_to_ids_documents": len(raw),
        "global_batch_size": config.train.global_batch_size,
        "sequence_length": config.data.sequence_length,
    }


# What a call has worked off, its seconds, and those of the processor.
_Timed = tuple[int, float, float]


def _timed(call: Callable[[], int]) -> _Timed:
    start, worked = time.perf_counter(), time.process_time()
    number = call()
    return number, time.perf_counter() - start, time.process_time() - worked


def _rates(timed: list[_Timed]) -> tuple[list[float], list[float]]:
    """Per second, and per second of the processor."""
    return [n / s for n, s, _ in timed], [n / s for n, _, s in timed]


def _documents(config: schema.Config) -> list[bytes]:
    """Raw ones, of the first unit."""
    unit = sources.list_units(config.data)[0]
    documents = sources.read(config.data, unit, cleaning.Counts())
    return [d.raw for d in itertools.islice(documents, _DOCUMENTS_A_ROUND)]


def _encode(raw: list[bytes], prepared: manifest.Prepared) -> int:
    """Cleans and encodes; returns the number of tokens."""
    counts = cleaning.Counts()
    texts = [cleaning.clean(document, counts) for document in raw]
    return sum(len(ids) for ids in prepared.tokenizer.encode(texts))


@tf.function(autograph=False)
def _take(iterator: Any, number: tf.Tensor) -> tf.Tensor:
    """Takes batches; returns their rows, int32 []."""

    def add(done: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return done + 1, rows + tf.shape(next(iterator)["token_ids"])[0]

    _, rows = tf.while_loop(
        lambda done, _: done < number, add, (tf.constant(0), tf.constant(0))
    )
    return rows
