"""`benchmark.what=input`: prepared rows to masked batches."""

import statistics
import time
from typing import Any

import tensorflow as tf

from configs import schema
from configs.runtime import Runtime
from input_pipeline import pretraining
from trainer.commands import prepare

_BATCHES_A_ROUND = 200


def measure(
    config: schema.Config, workdir: str, runtime: Runtime
) -> dict[str, Any]:
    """Tokens per second of this machine; padding counts, as it is work too.

    A round is 200 batches, taken one by one in a graph, as training takes
    them; the first round is thrown away.
    """
    prepared = prepare.open_prepared(config)
    size = config.train.global_batch_size * config.data.sequence_length
    iterator = iter(pretraining.training_batches(prepared, config))
    seconds = []
    for _ in range(config.benchmark.num_rounds + 1):
        start = time.perf_counter()
        _take(iterator, tf.constant(_BATCHES_A_ROUND)).numpy()
        seconds.append(time.perf_counter() - start)
    rates = [_BATCHES_A_ROUND * size / s for s in seconds[1:]]
    return {
        "tokens_per_second_median": round(statistics.median(rates)),
        "tokens_per_second_minimum": round(min(rates)),
        "tokens_per_second_maximum": round(max(rates)),
        "milliseconds_per_batch": round(
            1000 * statistics.median(seconds[1:]) / _BATCHES_A_ROUND, 3
        ),
        "global_batch_size": config.train.global_batch_size,
        "sequence_length": config.data.sequence_length,
    }


@tf.function(autograph=False)
def _take(iterator: Any, number: tf.Tensor) -> tf.Tensor:
    """Takes batches; returns their rows, int32 []."""

    def add(done: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return done + 1, rows + tf.shape(next(iterator)["token_ids"])[0]

    _, rows = tf.while_loop(
        lambda done, _: done < number, add, (tf.constant(0), tf.constant(0))
    )
    return rows
