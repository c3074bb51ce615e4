"""A tiny model and made-up batches, for every way to lay out a step.

The functions are imported by the soak tests and by worker processes too.
"""

import dataclasses
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from configs import schema
from trainer import cluster as cluster_lib
from trainer import modeling
from trainer.training import loop, objective, optimizers, signals, strategies
from trainer.training import step as step_lib

ROOT = pathlib.Path(__file__).resolve().parents[3]
VOCABULARY, SLOTS, PREDICTIONS, ROWS = 50, 12, 4, 16
SEED, MASK_ID = 11, 4
# A row without predictions, a replica without predictions, and full rows.
COUNTS = (0, 0, 4, 1, 4, 4, 0, 2, 0, 0, 0, 0, 3, 4, 1, 0)


def batch_of(step):
    """The global batch of a step: numpy arrays [ROWS, ...]."""
    random = np.random.default_rng([SEED, step])
    labels = random.integers(5, VOCABULARY, [ROWS, SLOTS])
    lengths = random.integers(PREDICTIONS, SLOTS + 1, [ROWS, 1])
    segments = np.where(np.arange(SLOTS) < lengths, 1, 0)
    counts = np.roll(COUNTS, step)
    used = np.arange(PREDICTIONS) < counts[:, np.newaxis]
    positions = np.stack(
        [random.permutation(n)[:PREDICTIONS] for n in lengths[:, 0]]
    )
    chosen = np.take_along_axis(labels, positions, 1)
    tokens = np.where(segments, labels, 0)
    shown = np.where(used, MASK_ID, np.take_along_axis(tokens, positions, 1))
    np.put_along_axis(tokens, positions, shown, 1)
    integers = {
        "token_ids": tokens,
        "segment_ids": segments,
        "position_ids": np.where(segments, np.arange(SLOTS), 0),
        "mask_positions": np.where(used, positions, 0),
        "mask_labels": np.where(used, chosen, 0),
    }
    batch = {key: value.astype(np.int32) for key, value in integers.items()}
    return {**batch, "mask_weights": used.astype(np.float32)}


@functools.cache
def _steps(number):
    batches = [batch_of(step) for step in range(number)]
    return {key: np.stack([b[key] for b in batches]) for key in batches[0]}


def batches(strategy, *, num_steps=64):
    """Distributed batches of steps 0 to num_steps - 1, again and again."""

    def create(index, count, num_replicas):
        size = ROWS // count
        own = {
            key: value[:, index * size : (index + 1) * size]
            for key, value in _steps(num_steps).items()
        }

        def cut(batch):
            return {
                key: tf.reshape(
                    value,
                    [num_replicas, size // num_replicas, *value.shape[1:]],
                )
                for key, value in batch.items()
            }

        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.OFF
        )
        dataset = tf.data.Dataset.from_tensor_slices(own).map(cut).unbatch()
        return dataset.repeat().with_options(options)

    return strategies.distribute(strategy, create)


class _Mirrored(tf.distribute.MirroredStrategy):
    # What a collective of a process sums is fixed once its key is used: these
    # are not the keys of other tests.
    _collective_key_base = 1_000_000


def mirrored(num_replicas):
    """A strategy over the first CPU devices of this process.

    TensorFlow's collectives know one size of group in a process. That of all
    devices has them, as in a run; the others sum on one device.
    """
    devices = [f"CPU:{number}" for number in range(num_replicas)]
    whole = num_replicas == len(tf.config.list_logical_devices("CPU"))
    return _Mirrored(
        devices,
        cross_device_ops=None
        if whole
        else tf.distribute.ReductionToOneDevice(),
    )


@dataclasses.dataclass
class Tiny:
    """Everything that trains the tiny model."""

    strategy: tf.distribute.Strategy
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    step: step_lib.Step
    call: object
    flag: tf.Variable

    def weights(self):
        return {
            variable.path: keras.ops.convert_to_numpy(variable)
            for variable in self.model.trainable_variables
        }

    def run(self, iterator, first_step, num_steps):
        """(steps done, wants to stop, sums), in numpy."""
        results = self.call(
            iterator,
            tf.constant(first_step, tf.int64),
            tf.constant(num_steps, tf.int32),
        )
        return tf.nest.map_structure(lambda value: value.numpy(), results)

    def losses(self, num_steps):
        """The mean loss of each of the first steps."""
        iterator, losses = iter(batches(self.strategy)), []
        for number in range(num_steps):
            _, _, sums = self.run(iterator, number, 1)
            losses.append(float(sums["loss"] / sums["weight"]))
        return losses


def create_model(policy):
    """The tiny masked LM, in the scope of a strategy."""
    return modeling.create_masked_lm(
        schema.ModelConfig(
            num_layers=1,
            hidden_size=16,
            num_heads=4,
            intermediate_size=24,
            dropout=0.1,
            attention_dropout=0.1,
            initializer_range=0.2,
        ),
        vocabulary_size=VOCABULARY,
        sequence_length=SLOTS,
        seed=SEED,
        dtype=policy,
    )


def create(
    strategy,
    *,
    accumulation_steps=1,
    jit=False,
    steps_per_program=1,
    precision="float32",
    flag=None,
    change=lambda sums: sums,
    **optimizer_fields,
):
    """The tiny model under a strategy; `change` sees the sums of a batch."""
    policy = strategies.Arithmetic(precision, jit).policy
    # Every step is clipped, so that it shows where that is done.
    config = schema.OptimizerConfig(
        **{"schedule": "constant", "clip_norm": 0.1, **optimizer_fields}
    )
    with strategy.scope():
        model = create_model(policy)
        optimizer = optimizers.create(
            config,
            model.trainable_variables,
            num_steps=1000,
            precision=precision,
        )

    def sums_of(batch, step, first_row):
        noise = modeling.create_noise(SEED, step=step, first_row=first_row)
        predictions = model.predictions(batch, noise=noise)
        return change(objective.masked_lm(predictions, batch))

    step = step_lib.Step(
        objective=sums_of,
        sum_names=objective.SUMS,
        variables=model.trainable_variables,
        optimizer=optimizer,
        clip_norm=config.clip_norm,
        rows_per_replica=ROWS // strategy.num_replicas_in_sync,
        accumulation_steps=accumulation_steps,
        jit=jit,
        steps_per_program=steps_per_program,
    )
    if flag is None:
        flag = tf.Variable(0.0)
    call = step_lib.create_train_call(strategy, step, flag)
    return Tiny(strategy, model, optimizer, step, call, flag)


def plan(**fields):
    """Of 12 steps in epochs of six, without stops in between."""
    never = 1000
    return loop.Plan(
        **{
            "num_steps": 12,
            "steps_per_epoch": 6,
            "steps_per_call": never,
            "log_every": never,
            "evaluate_every": 0,
            "checkpoint_every": never,
            **fields,
        }
    )


def largest_difference(weights, others):
    """Over all elements of all variables."""
    assert weights.keys() == others.keys()
    return max(
        float(np.abs(weights[name] - others[name]).max()) for name in weights
    )


def largest_relative(losses, others):
    return float(np.max(np.abs(np.subtract(losses, others) / others)))


def worker(directory, num_steps, accumulation_steps):
    """A process of a cluster: some steps, then many until a signal comes."""
    strategy = strategies.create("multi_worker")
    cluster_lib.from_environment().check()  # TensorFlow's servers answer.
    with signals.StopSignal() as stop:
        tiny = create(
            strategy,
            flag=stop.flag,
            accumulation_steps=int(accumulation_steps),
        )
        losses = tiny.losses(int(num_steps))
        index = strategy.cluster_resolver.task_id
        path = pathlib.Path(directory) / f"{index}.npz"
        np.savez(path, losses=losses, **tiny.weights())
        print("ready", flush=True)
        iterator = iter(batches(strategy))
        start = time.perf_counter()
        done, _, sums = tiny.run(iterator, 0, 200_000)
        seconds = time.perf_counter() - start
    end = {
        "done": int(done),
        "signal": stop.number,
        "chief": strategies.is_chief(strategy),
        "waiting": float(sums["waiting"]) / seconds,
    }
    print(json.dumps(end))


def free_ports(number):
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in with_ports]
    for server in with_ports:
        server.close()
    return ports


def start(code, *arguments, **environment):
    """A Python process in the root of the project, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_cluster(code, *arguments):
    """Two such processes that know of each other, the chief first."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = ({"type": "worker", "index": index} for index in range(2))
    return [
        start(
            code,
            *arguments,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": task}),
        )
        for task in tasks
    ]


def start_workers(directory, *, num_steps, accumulation_steps=1):
    """Two processes that run `worker`."""
    code = (
        "import sys; from tests.trainer.training import conftest;"
        " conftest.worker(*sys.argv[1:])"
    )
    return start_cluster(code, directory, num_steps, accumulation_steps)


def end_workers(workers, number):
    """Sends a signal to the last one; returns what each of them printed."""
    for process in workers:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    workers[-1].send_signal(number)
    results = []
    for process in workers:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        results.append(json.loads(out.splitlines()[-1]))
    return results


def read_worker(directory, index):
    """(losses, weights) that a worker wrote."""
    arrays = dict(np.load(pathlib.Path(directory) / f"{index}.npz"))
    return arrays.pop("losses"), arrays
