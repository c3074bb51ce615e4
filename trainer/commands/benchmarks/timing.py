"""Calls timed in turns, and what the times say.

A shared machine is faster in one minute than in the next: only what was timed
in the same rounds can be compared, and only ratios of one round are exact.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Computes something and waits until it is there.
Call = Callable[[], Any]


def in_turns(
    calls: Mapping[str, Call], *, num_rounds: int
) -> dict[str, list[float]]:
    """Seconds of every call; each is called once a round, in their order.

    A round before the first is thrown away: graphs are traced in it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(num_rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def describe(seconds: list[float], *, parts: int = 1) -> dict[str, float]:
    """Milliseconds of one of the `parts` (steps, say) of a call.

    The spread is that of the middle half of the rounds over the median.
    """
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    return {
        "milliseconds_median": round(1000 * middle / parts, 3),
        "milliseconds_minimum": round(1000 * min(seconds) / parts, 3),
        "spread": round((high - low) / middle, 3),
    }


def compare(ours: list[float], reference: list[float]) -> dict[str, Any]:
    """How many times as long the reference takes, round by round."""
    ratios = [b / a for a, b in zip(ours, reference, strict=True)]
    described = describe(reference).items()
    return {
        **{f"reference_{name}": value for name, value in described},
        "ratio_median": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }
