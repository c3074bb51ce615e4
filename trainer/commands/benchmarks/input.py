"""`benchmark.what=input`: text to ids, and prepared rows to masked batches."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline import cleaning, pretraining, sources
from input_pipeline import tokenizer as tokenizer_lib
from trainer.run import Run

_BATCHES_A_ROUND = 200
_DOCUMENTS_A_ROUND = 2000


def measure(run: Run) -> dict[str, Any]:
    """Tokens per second of this machine, and of one core of it.

    A round is 200 batches, taken one by one in a graph, as training takes
    them, with their padding, which is work too; and the first 2,000 documents,
    cleaned and encoded. The first round is thrown away. What a core does
    follows from the processor time of all threads.
    """
    config, rows = run.config, run.rows
    num_rounds = config.benchmark.num_rounds
    unit = sources.list_units(config.data)[0]
    documents = sources.read(config.data, unit, cleaning.Counts())
    raw = [d.raw for d in itertools.islice(documents, _DOCUMENTS_A_ROUND)]
    _, encoded_a_core = _rates(lambda: _encode(raw, rows.tokenizer), num_rounds)

    length = config.data.sequence_length
    iterator = iter(pretraining.training_batches(rows, config))
    number = tf.constant(_BATCHES_A_ROUND)
    rates, rates_a_core = _rates(
        lambda: int(_take(iterator, number)) * length, num_rounds
    )
    size = config.train.global_batch_size
    return {
        "tokens_per_second_median": round(np.median(rates)),
        "tokens_per_second_minimum": round(min(rates)),
        "tokens_per_second_maximum": round(max(rates)),
        "tokens_per_second_a_core": round(np.median(rates_a_core)),
        "milliseconds_per_batch": round(
            1000 * size * length / float(np.median(rates)), 3
        ),
        "text_to_ids_tokens_per_second_a_core": round(
            np.median(encoded_a_core)
        ),
        "text_to_ids_documents": len(raw),
        "global_batch_size": size,
        "sequence_length": length,
    }


def _rates(
    call: Callable[[], int], num_rounds: int
) -> tuple[list[float], list[float]]:
    """Tokens of a call per second, and per second of the processor."""
    rates, rates_a_core = [], []
    for _ in range(num_rounds + 1):
        start, worked = time.perf_counter(), time.process_time()
        num_tokens = call()
        rates.append(num_tokens / (time.perf_counter() - start))
        rates_a_core.append(num_tokens / (time.process_time() - worked))
    return rates[1:], rates_a_core[1:]


def _encode(raw: list[bytes], tokenizer: tokenizer_lib.Tokenizer) -> int:
    """Cleans and encodes; returns the number of tokens."""
    counts = cleaning.Counts()
    texts = [cleaning.clean(document, counts) for document in raw]
    return sum(map(len, tokenizer.encode(texts)))


@tf.function(autograph=False)
def _take(iterator: Any, number: tf.Tensor) -> tf.Tensor:
    """Takes batches; returns their rows, int32 []."""

    def add(done: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return done + 1, rows + tf.shape(next(iterator)["token_ids"])[0]

    _, rows = tf.while_loop(
        lambda done, _: done < number, add, (tf.constant(0), tf.constant(0))
    )
    return rows
