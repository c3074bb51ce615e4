"""Strategies, their batches, their `auto`, and the TPU's graph."""

import collections
import json
import pathlib
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.tpu import tpu_system_metadata

from configs import overrides, schema
from proofs.tpu import lower
from trainer.training import objective, strategies
from trainer.training import step as step_lib


def _train(**fields):
    return schema.TrainConfig(**fields)


def test_mirrored_takes_all_devices_and_one_device_takes_one(monkeypatch):
    # What a cluster says does not disturb one host.
    task = {"type": "worker", "index": 1}
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    text = json.dumps({"cluster": cluster, "task": task})
    monkeypatch.setenv("TF_CONFIG", text)
    strategy = strategies.create("mirrored")
    assert strategy.num_replicas_in_sync == 4
    assert strategies.is_chief(strategy)
    assert strategies.describe(strategy) == (
        "MirroredStrategy: 4 replica(s); here CPU:0, CPU:1, CPU:2, CPU:3"
    )
    assert strategies.create("mirrored") is strategy  # A process has one.
    strategy = strategies.create("one_device")
    assert strategies.is_chief(strategy)
    assert strategies.describe(strategy).endswith("1 replica(s); here CPU:0")


def test_unknown_name_lists_the_known():
    with pytest.raises(
        ValueError, match="=parallel.*mirrored, one_device, multi_worker, tpu"
    ):
        strategies.create("parallel")


def test_virtual_devices_come_first_or_not_at_all():
    strategy = strategies.create("mirrored", num_virtual_devices=4)
    assert strategy.num_replicas_in_sync == 4  # They were there already.
    with pytest.raises(ValueError, match="num_virtual_devices=3 .*too late"):
        strategies.create("mirrored", num_virtual_devices=3)


def test_iterators_are_released_at_once():
    strategy = strategies.create("mirrored")
    data = strategies.distribute(
        strategy, lambda *_: tf.data.Dataset.range(10**9).batch(2)
    )
    for _ in range(2):
        iterator = iter(data)
        next(iterator)
        time.sleep(1.5)  # Autotuning would sleep longer and longer.
        start = time.perf_counter()
        del iterator
        # Otherwise it waits for a minute.
        assert time.perf_counter() - start < 20


class Cluster:
    """Stands for a strategy and its cluster resolver."""

    def __init__(self, kind, index, **jobs):
        self.cluster_resolver = self
        self.task_type, self.task_id = kind, index
        self._jobs = jobs

    def cluster_spec(self):
        return tf.train.ClusterSpec(self._jobs)


@pytest.mark.parametrize(
    ("cluster", "chief"),
    [
        (Cluster("worker", 0, worker=["a:1", "b:1"]), True),
        (Cluster("worker", 1, worker=["a:1", "b:1"]), False),
        (Cluster("worker", 0, worker=["a:1"], chief=["b:1"]), False),
        (Cluster("chief", 0, worker=["a:1"], chief=["b:1"]), True),
        (Cluster(None, None), True),
    ],
)
def test_a_cluster_has_one_chief(cluster, chief):
    assert strategies.is_chief(cluster) is chief


def test_no_tpu_is_one_line(monkeypatch):
    monkeypatch.setenv("TPU_NAME", "local")

    def fail(name):
        raise tf.errors.NotFoundError(None, None, "no such device\nand more")

    resolvers = tf.distribute.cluster_resolver
    monkeypatch.setattr(resolvers, "TPUClusterResolver", fail)
    with pytest.raises(ValueError, match="no TPU called 'local'") as caught:
        strategies.create("tpu")
    assert "no such device" in str(caught.value)
    assert "and more" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "parts", "message"),
    [
        (12, 1, None),
        (24, 2, None),
        (13, 1, "multiple of 4 .*; 12 or 16 would do"),
        (3, 1, "; 4 would do"),
        (9, 3, r"multiple of 12 \(4 replica\(s\) x .*=3\); 12 would do"),
    ],
)
def test_check_batch(size, parts, message):
    strategy = strategies.create("mirrored")
    config = _train(global_batch_size=size, accumulation_steps=parts)
    if message is None:
        assert strategies.check_batch(strategy, config) == size // 4
    else:
        with pytest.raises(ValueError, match=message):
            strategies.check_batch(strategy, config)


def _gpus(monkeypatch, capability):
    listed = tf.config.list_physical_devices
    monkeypatch.setattr(
        tf.config,
        "list_physical_devices",
        lambda kind=None: ["gpu"] if kind == "GPU" else listed(kind),
    )
    details = {"compute_capability": capability} if capability else {}
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: details
    )


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        ((6, 1), "float32"),
        ((7, 5), "float16"),
        ((8, 0), "bfloat16"),
        ((10, 0), "bfloat16"),
        (None, "float32"),
    ],
)
def test_auto_on_a_gpu(monkeypatch, capability, precision):
    strategy = strategies.create("one_device")
    _gpus(monkeypatch, capability)
    resolved = strategies.resolve(strategy, _train())
    assert resolved == strategies.Arithmetic(precision, True)


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("sse avx512_bf16 avx", "bfloat16"),
        ("amx_bf16", "bfloat16"),
        ("avx512f", "float32"),
        (None, "float32"),
    ],
)
def test_auto_on_a_cpu(monkeypatch, flags, precision):
    text = f"processor : 0\nflags\t\t: fpu {flags}\nbugs : amx_bf16\n"
    strategy = strategies.create("one_device")
    monkeypatch.setattr(pathlib.Path, "exists", lambda path: flags is not None)
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: text)
    resolved = strategies.resolve(strategy, _train())
    assert resolved == strategies.Arithmetic(precision, False)


@pytest.mark.parametrize(
    ("precision", "jit", "policy"),
    [("float32", "off", "float32"), ("float16", "on", "mixed_float16")],
)
def test_what_is_asked_for_is_taken(monkeypatch, precision, jit, policy):
    strategy = strategies.create("one_device")
    _gpus(monkeypatch, (8, 0))  # Where auto is bfloat16, with XLA.
    before = {"precision": "bfloat16", "jit": jit == "off"}
    for began in (None, before):
        resolved = strategies.resolve(
            strategy, _train(precision=precision, jit=jit), began
        )
        assert resolved == strategies.Arithmetic(precision, jit == "on")
        assert resolved.policy == policy


def test_auto_stays_what_it_was_when_the_run_began():
    strategy = strategies.create("one_device")
    before = {"precision": "float16", "jit": True, "vocabulary_size": 9}
    resolved = strategies.resolve(strategy, _train(), before)
    assert resolved == strategies.Arithmetic("float16", True)


class FakeResolver(tf.distribute.cluster_resolver.ClusterResolver):
    """Says that there are two TPU cores."""

    task_type, task_id = "worker", 0
    rpc_layer = tpu_hardware_feature = None

    def cluster_spec(self):
        return tf.train.ClusterSpec({})

    def master(self, *args, **kwargs):
        return ""

    @property
    def environment(self):
        return ""

    def get_tpu_system_metadata(self):
        device = collections.namedtuple("Device", "name")
        prefix = "/job:localhost/replica:0/task:0/device:TPU:"
        return tpu_system_metadata.TPUSystemMetadata(
            num_cores=2,
            num_hosts=1,
            num_of_cores_per_host=2,
            topology=None,
            devices=[device(f"{prefix}{number}") for number in range(2)],
        )


@pytest.fixture
def tpu():
    """A real TPUStrategy over CPU devices: traces, but must not run."""
    strategy = tf.distribute.TPUStrategy(FakeResolver())
    strategy._enable_packed_variable_in_eager_mode = False
    prefix = "/job:localhost/replica:0/task:0/device:CPU:"
    cores, host = [f"{prefix}1", f"{prefix}2"], f"{prefix}0"
    extended = strategy.extended
    extended._tpu_devices = np.array([[core] for core in cores], dtype=object)
    extended._host_device = host
    ordered = collections.OrderedDict
    extended._device_input_worker_devices = ordered({host: cores})
    extended._host_input_worker_devices = ordered({host: [host] * 2})
    return strategy


def _operations(concrete):
    """All nodes of the graph and of every function that it may call."""
    graph = concrete.graph.as_graph_def(add_shapes=True)
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _check_tpu_graph(concrete):
    """No strings, host calls, own XLA or dynamic shapes; sums in float32."""
    operations = list(_operations(concrete))
    types = collections.Counter(node.op for node in operations)
    assert types["TPUReplicateMetadata"] >= 1
    banned = ("PyFunc", "EagerPyFunc", "Print", "PrintV2", "Where", "Unique")
    assert not [name for name in banned if types[name]]
    assert not [name for name in types if name.startswith("String")]
    for node in operations:
        assert not node.attr["_XlaMustCompile"].b, node.name
        assert "_xla_outside_compilation" not in node.attr, node.name
    replicated = [node for node in operations if "_tpu_replicate" in node.attr]
    assert len(replicated) > 100
    shaped = [node for node in replicated if "_output_shapes" in node.attr]
    assert len(shaped) > 100
    for node in shaped:
        # Which axes to sum over is a constant for the compiler.
        if node.op != "BroadcastGradientArgs":
            for shape in node.attr["_output_shapes"].list.shape:
                assert tf.TensorShape(shape).is_fully_defined(), node.name
    for node in replicated:
        kinds = {value.type for value in node.attr.values()}
        assert tf.string.as_datatype_enum not in kinds, node.name
    sums = [node for node in operations if node.op == "CrossReplicaSum"]
    assert {node.attr["T"].type for node in sums} == {
        tf.float32.as_datatype_enum
    }
    return types


def _task(tpu, stage, parts):
    """The real model of a stage, small, and the batch of one of two cores."""
    changes = {
        "config.data.sequence_length": "12",
        "config.tokenizer.vocabulary_size": "50",
        "config.model.num_layers": "1",
        "config.model.hidden_size": "16",
        "config.model.dropout": "0.1",
        "config.model.attention_dropout": "0.1",
        "config.train.global_batch_size": "16",
        "config.train.accumulation_steps": str(parts),
        "config.finetune.global_batch_size": "16",
        "config.finetune.word_dropout": "0.1",
        "config.finetune.average_decay": "0.9",
    }
    config = overrides.load_config("configs/sample.py", changes=changes)
    task = lower.create_task(config, stage, tpu)
    return task, lower.batch_spec(config, stage, 8)


class Feed:
    """Stands for the iterator: `next` gives what the graph is fed."""

    def __init__(self, batch):
        self._batch = batch

    def __next__(self):
        return self._batch


def test_a_tpu_computes_in_bfloat16_and_compiles_by_itself(tpu):
    assert strategies.is_tpu(tpu)
    assert strategies.is_chief(tpu)
    resolved = strategies.resolve(tpu, _train())
    assert resolved == strategies.Arithmetic("bfloat16", False)
    with pytest.raises(ValueError, match="train.jit=on .*leave it at auto"):
        strategies.resolve(tpu, _train(jit="on"))


@pytest.mark.parametrize(
    ("stage", "parts", "num_sums"), [("pretrain", 2, 13), ("finetune", 1, 4)]
)
def test_step_and_evaluation_trace_for_a_tpu(tpu, stage, parts, num_sums):
    task, spec = _task(tpu, stage, parts)
    train_call = task.create_train_call(tf.Variable(0.0))

    @tf.function(autograph=False)
    def train(batch, first_step, num_steps):
        return train_call.python_function(Feed(batch), first_step, num_steps)

    types = _check_tpu_graph(
        train.get_concrete_function(
            spec, tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32)
        )
    )
    num_variables = len(task.variables)
    assert types["ResourceApplyAdam"] == num_variables
    # Gradients, sums, and whether a worker wants to stop.
    values = num_variables + len(objective.SUMS) + 1
    assert types["CrossReplicaSum"] == values

    evaluation_call = step_lib.create_evaluation_call(
        tpu, task.evaluation_objective, jit=task.arithmetic.jit
    )

    @tf.function(autograph=False)
    def evaluate(batch):
        return evaluation_call.python_function(Feed(batch))

    types = _check_tpu_graph(evaluate.get_concrete_function(spec))
    assert types["CrossReplicaSum"] == num_sums
