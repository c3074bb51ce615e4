"""The fastest matrix products of the machine, and the memory of a call."""

import concurrent.futures
import multiprocessing
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from input_pipeline import processes
from trainer import fusion
from trainer.commands.benchmarks import timing

_PRECISIONS = ("float32", "bfloat16")


def matmuls() -> dict[str, timing.Call]:
    """Products of large square matrices, to be timed beside the work."""
    size = matmul_size()

    def create(precision: str) -> timing.Call:
        matrix = tf.random.stateless_normal([size, size], seed=[0, 0])
        matrix = tf.cast(matrix, precision)
        product = tf.function(lambda: tf.reduce_sum(matrix @ matrix))
        return lambda: product().numpy()

    return {f"matmul_{name}": create(name) for name in _PRECISIONS}


def describe_work(
    flops: float,
    median: float,
    seconds: dict[str, list[float]],
    *,
    precision: str,
    num_devices: int = 1,
) -> dict[str, float]:
    """Useful FLOPs, and their share of the fastest matrix products.

    Args:
      flops: of one piece of work.
      median: seconds that it takes.
      seconds: of `matmuls`.
      precision: in which the work multiplies.
      num_devices: physical ones that share it.
    """
    peaks = {
        name: 2.0 * matmul_size() ** 3 / min(seconds[f"matmul_{name}"])
        for name in _PRECISIONS
    }
    # A GPU multiplies float16 as fast as bfloat16.
    peak = peaks["float32" if precision == "float32" else "bfloat16"]
    found = {
        "useful_gigaflops": round(flops / 1e9, 2),
        "useful_gigaflops_per_second": round(flops / median / 1e9, 1),
    }
    for name, rate in peaks.items():
        found[f"matmul_gigaflops_per_second_{name}"] = round(rate / 1e9, 1)
    share = flops / median / peak / num_devices
    return {**found, "share_of_matmul_peak": round(share, 3)}


def matmul_size() -> int:
    """Rows and columns of the matrices that `matmuls` multiplies."""
    return 8192 if tf.config.list_physical_devices("GPU") else 2048


def peak_bytes(create: Callable[..., Any], *args: Any) -> int:
    """The most memory that a call needs, over what its process had before.

    What libraries load on their first use does not count, nor does what
    optimizing and compiling take in the first call.

    Args:
      create: a module's function, which makes a `steps.Timed` in a fresh
        process.
      args: what it is called with.
    """
    with concurrent.futures.ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=processes.import_module,
        initargs=("tensorflow",),
    ) as process:
        return process.submit(_peak_bytes, create, *args).result()


def _peak_bytes(create: Callable[..., Any], *args: Any) -> int:
    call = create(*args)
    call.trace()  # What Python needs for it does not count.
    _use_libraries()
    if tf.config.list_physical_devices("GPU"):
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
        call()
        tf.config.experimental.reset_memory_stats("GPU:0")
        call()
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before
    before = _status("VmRSS")
    call()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak.
    call()
    return _status("VmHWM") - before


def _use_libraries() -> None:
    """Multiplies, and compiles where anything would."""
    exponential = fusion.fused(tf.exp)

    @tf.function(autograph=False)
    def compute(x: tf.Tensor) -> tf.Tensor:
        return exponential(x @ x)

    compute(tf.ones([8, 8])).numpy()


def _status(name: str) -> int:
    """Bytes of a field of Linux' `/proc/self/status`."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return 1024 * int(fields[name].split()[0])
