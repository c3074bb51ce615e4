"""Where a run computes: the strategy, its devices, and its `auto` choices."""

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops
from tensorflow.python.eager import context

from configs import schema
from trainer import cluster as cluster_lib

_log = logging.getLogger(__name__)
_NAMES = ("mirrored", "one_device", "multi_worker", "tpu")
_JOIN_MILLISECONDS = 60_000
# TensorFlow's own ten seconds end runs whose hosts are only busy. It is the
# cluster's `watch`, a little sooner than this, that ends one.
_HEARTBEAT_MILLISECONDS = 40_000


# A process has one, whatever it runs there: a second strategy would take the
# collective keys of the first, join the cluster twice, empty the TPU's memory.
@functools.cache
def create(
    name: str, *, num_virtual_devices: int = 0
) -> tf.distribute.Strategy:
    """The strategy of `--strategy`; the first thing that touches a device.

    Args:
      name: mirrored | one_device | multi_worker | tpu.
      num_virtual_devices: split the first GPU, or the CPU where there is
        none, into that many logical devices; 0 = as they are.

    Raises:
      ValueError: `multi_worker` without a good TF_CONFIG, `tpu` without a
        TPU, or a name that is not known.
      LostError: a worker did not come.
    """
    if name not in _NAMES:
        raise ValueError(
            f"--strategy={name} is not known; choose one of"
            f" {', '.join(_NAMES)}."
        )
    if num_virtual_devices:
        _split_device(num_virtual_devices)
    if name == "multi_worker":
        return _multi_worker()
    if name == "tpu":
        return _tpu()
    devices = [
        device.name
        for device in tf.config.list_logical_devices("GPU")
        or tf.config.list_logical_devices("CPU")
    ]
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0])
    return tf.distribute.MirroredStrategy(devices)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes files and prints; one in a cluster does."""
    resolver = strategy.cluster_resolver
    # One process drives all hosts of a TPU.
    if resolver is None or is_tpu(strategy):
        return True
    jobs = resolver.cluster_spec().jobs
    first = ("chief" if "chief" in jobs else "worker", 0)
    return not jobs or (resolver.task_type, resolver.task_id) == first


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    """TPUStrategy compiles by itself, and its hosts have no XLA:CPU."""
    return isinstance(strategy, tf.distribute.TPUStrategy)


def has_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether processes compute together, each with a strategy of its own."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def check_batch(
    strategy: tf.distribute.Strategy,
    config: schema.TrainConfig,
    *,
    section: str = "train",
) -> int:
    """Rows of a replica's batch; raises ValueError where B does not divide."""
    replicas = strategy.num_replicas_in_sync
    parts = replicas * config.accumulation_steps
    size = config.global_batch_size
    if size % parts:
        below = size // parts * parts
        raise ValueError(
            f"{section}.global_batch_size={size} must be a multiple of {parts}"
            f" ({replicas} replica(s) x train.accumulation_steps="
            f"{config.accumulation_steps});"
            f" {f'{below} or ' * bool(below)}{below + parts} would do."
        )
    return size // replicas


def distribute(
    strategy: tf.distribute.Strategy,
    create_batches: Callable[[int, int, int], tf.data.Dataset],
) -> Any:
    """A distributed data set of per-replica batches.

    Args:
      strategy: where the batches go.
      create_batches: called with (shard index, shard count, replicas of this
        host); its batches come replica by replica.
    """

    def build(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return create_batches(
            context.input_pipeline_id,
            context.num_input_pipelines,
            context.num_replicas_in_sync // context.num_input_pipelines,
        )

    _disable_device_autotuning()
    return strategy.distribute_datasets_from_function(build)


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """What `auto` became; part of a run's state."""

    precision: str  # float32 | bfloat16 | float16
    jit: bool  # XLA for forward and backward of a replica.

    @property
    def policy(self) -> str:
        """The name of the Keras dtype policy."""
        mixed = self.precision != "float32"
        return f"mixed_{self.precision}" if mixed else "float32"


def resolve(
    strategy: tf.distribute.Strategy,
    config: schema.TrainConfig,
    before: dict[str, Any] | None = None,
) -> Arithmetic:
    """A fixed table by device, never a measurement.

    Where `auto` stands and `before` has the `precision` and `jit` with which
    the run began, these stay, whatever the device is now.

    device                         precision   XLA
    TPU                            bfloat16    never asked for: it is implied
    GPU, compute capability >= 8   bfloat16    on
    GPU, compute capability 7      float16     on
    older GPU                      float32     on
    CPU with AVX512-BF16 or AMX    bfloat16    off: XLA:CPU upcasts bfloat16,
    other CPU                      float32     off   oneDNN does not
    """
    gpus = tf.config.list_physical_devices("GPU")
    if is_tpu(strategy):
        precision = "bfloat16"
    elif gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        major, _ = details.get("compute_capability", (0, 0))
        precision = "bfloat16" if major >= 8 else "float32"
        precision = "float16" if major == 7 else precision
    else:
        cpu = pathlib.Path("/proc/cpuinfo")
        lines = cpu.read_text().splitlines() if cpu.exists() else []
        flags = next((line.split() for line in lines if "flags" in line), [])
        native = "avx512_bf16" in flags or "amx_bf16" in flags
        precision = "bfloat16" if native else "float32"
    jit = bool(gpus)
    if before:
        precision, jit = before["precision"], before["jit"]
    if is_tpu(strategy):
        # It would refuse to be asked for XLA, which is always on there.
        if config.jit == "on":
            raise ValueError(
                "train.jit=on cannot be asked for on a TPU, which compiles"
                " every step anyway; leave it at auto."
            )
        jit = False
    if config.precision != "auto":
        precision = config.precision
    return Arithmetic(
        precision, {"auto": jit, "on": True, "off": False}[config.jit]
    )


def describe(strategy: tf.distribute.Strategy) -> str:
    """One line on the devices of this process, for the start of a run."""
    devices = [
        tf.DeviceSpec.from_string(name)
        for name in strategy.extended.worker_devices
    ]
    names = [f"{d.device_type}:{d.device_index}" for d in devices]
    return (
        f"{type(strategy).__name__}: {strategy.num_replicas_in_sync}"
        f" replica(s); here {', '.join(names)}"
    )


@functools.cache  # Once is enough.
def _disable_device_autotuning() -> None:
    """Keeps tf.data's autotuning out of the iterators of the replicas.

    A distributed data set reads through one more iterator for each device,
    which TensorFlow makes without options and without regard to those of the
    data set; `InputOptions` can only leave them out, and with them the
    prefetching to the device. Their autotuning thread sleeps for up to 60
    seconds, and may sleep through the cancellation that their release waits
    for: it is woken before `CancellationManager` says "cancelled".
    """
    original = multi_device_iterator_ops._create_device_dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    multi_device_iterator_ops._create_device_dataset = lambda *args: original(
        *args
    ).with_options(options)


def _split_device(number: int) -> None:
    gpus = tf.config.list_physical_devices("GPU")
    device = (gpus or tf.config.list_physical_devices("CPU"))[0]
    limit = 16_384 // number if gpus else None  # MiB
    parts = [tf.config.LogicalDeviceConfiguration(memory_limit=limit)] * number
    try:
        # First of all: even listing logical devices would fix their number.
        tf.config.set_logical_device_configuration(device, parts)
    except RuntimeError as error:
        if len(tf.config.list_logical_devices(device.device_type)) == number:
            return
        raise ValueError(
            f"--num_virtual_devices={number} comes too late: TensorFlow has"
            " been used in this process already."
        ) from error


def _multi_worker() -> tf.distribute.Strategy:
    cluster = cluster_lib.from_environment()
    _log.info("waiting until all %d processes run", len(cluster.addresses))
    cluster.wait_for_all()
    # Now they run. TensorFlow would wait an hour for one that dies right here.
    service = context.context()
    service.configure_coordination_service = functools.partial(
        service.configure_coordination_service,
        cluster_register_timeout_in_ms=_JOIN_MILLISECONDS,
        heartbeat_timeout_in_ms=_HEARTBEAT_MILLISECONDS,
    )
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        cluster.check()
        raise ValueError(
            f"TF_CONFIG: {cluster.me} cannot join the cluster:"
            f" {error.message.splitlines()[0]}"
        ) from error
    cluster.watch(
        lambda: service.abort_collective_ops(
            tf.errors.UNAVAILABLE, "a worker does not answer"
        )
    )
    return strategy


def _tpu() -> tf.distribute.Strategy:
    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except Exception as error:
        # The resolver raises anything from ValueError to NotFoundError.
        raise ValueError(
            f"--strategy=tpu found no TPU called {name!r} (TPU_NAME):"
            f" {str(error).splitlines()[0] if str(error) else error!r}"
            " Run it on a TPU VM with tensorflow-tpu, or choose"
            " --strategy=mirrored."
        ) from error
    return tf.distribute.TPUStrategy(resolver)
