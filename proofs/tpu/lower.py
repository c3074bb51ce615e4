"""Lowers a training step to StableHLO, as `tensorflow-tpu` would for a TPU.

    python -m proofs.tpu.lower --config=configs/imdb.py --replicas=8 \
        --out=runs/tpu/imdb

The step of one replica, whole: forward and backward, the sums over all
replicas, the update. It is a pure function, because nothing that holds a
variable can be lowered without a TPU. Writes `<out>.mlir` and `<out>.json`.
"""

import argparse
import json
import pathlib
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs import overrides, schema
from input_pipeline import labelled_rows
from trainer.commands.benchmarks import flops
from trainer.stages import finetuning_task, pretraining_task, tasks
from trainer.training import step as step_lib
from trainer.training import strategies

Tensors = list[tf.Tensor]


def create_task(
    config: schema.Config, stage: str, strategy: tf.distribute.Strategy
) -> tasks.Task:
    """The configured model, and the step that trains it, without any text."""
    size = config.tokenizer.vocabulary_size
    special = types.SimpleNamespace(mask=4, unknown=1)
    prepared: Any = types.SimpleNamespace(
        sequence_length=config.data.sequence_length,
        tokenizer=types.SimpleNamespace(
            vocabulary_size=size,
            special=special,
            is_special=np.arange(size) < 5,
        ),
        roles={"train": types.SimpleNamespace(num_rows=100_000)},
        labels=("negative", "positive"),
        multilabel=False,
    )
    # What `strategy.resolve` says of a TPU.
    arithmetic = strategies.Arithmetic("bfloat16", False)
    if stage == "finetune":
        return finetuning_task.create(config, strategy, prepared, arithmetic)[
            -1
        ]
    return pretraining_task.create(config, strategy, prepared, arithmetic)


def batch_spec(
    config: schema.Config, stage: str, rows: int
) -> dict[str, tf.TensorSpec]:
    """The batch of a replica, as the siblings agree on it."""

    def specs(width: int, *names: str) -> dict[str, tf.TensorSpec]:
        dtypes = {True: tf.float32, False: tf.int32}
        return {
            name: tf.TensorSpec([rows, width], dtypes[name.endswith("weights")])
            for name in names
        }

    slots = ("token_ids", "segment_ids", "position_ids")
    if stage == "finetune":
        layout = labelled_rows.Layout.of(config, num_documents=16)
        return specs(layout.slots, *slots, "document_ids") | specs(
            layout.num_documents, "labels", "label_weights"
        )
    return specs(config.data.sequence_length, *slots) | specs(
        config.num_predictions, "mask_positions", "mask_labels", "mask_weights"
    )


def pure_step(
    step: step_lib.Step, variables: list[keras.Variable], replicas: int
) -> Callable[..., Any]:
    """(values, batch, step, first row) -> (values, sums) of `step`.

    The values are those of `variables`: weights, moments, counters.
    """
    forward_backward = step.create_forward_backward()
    names = sorted(step.sum_names)
    update = tf.function(step.update, autograph=False).get_concrete_function(
        [tf.TensorSpec(v.shape) for v in step.variables],
        {name: tf.TensorSpec([]) for name in names},
    )

    def call(
        values: Tensors,
        batch: step_lib.Batch,
        number: tf.Tensor,
        first_row: tf.Tensor,
    ) -> tuple[Tensors, Tensors]:
        scope = zip(variables, values, strict=True)
        with keras.StatelessScope(list(scope)):
            gradients, sums = forward_backward(batch, number, first_row)
        reduced = [*gradients, *(sums[name] for name in names)]
        if replicas > 1:
            reduced = [
                tf.raw_ops.CrossReplicaSum(
                    input=value, group_assignment=[list(range(replicas))]
                )
                for value in reduced
            ]
        return replay(update, variables, values, reduced)

    return call


def replay(
    traced: Any,
    variables: list[keras.Variable],
    values: Tensors,
    arguments: Tensors,
) -> tuple[Tensors, Tensors]:
    """Runs a traced function, operation by operation, without its variables.

    Args:
      traced: a concrete function that reads and assigns variables.
      variables: all that it may hold.
      values: what they hold before.
      arguments: of the function, flat.

    Returns:
      What the variables hold afterwards, and what the function returns.
    """
    graph = traced.graph
    owner = {id(v.value.handle): i for i, v in enumerate(variables)}
    handles = {  # Name of a handle in the graph -> index of its variable.
        inner.name: owner[id(outer)] for outer, inner in graph.captures
    }
    free = [t for t in graph.inputs if t.name not in handles]
    known = {t.name: value for t, value in zip(free, arguments, strict=True)}
    values = list(values)
    for op in graph.get_operations():
        places = [handles[t.name] for t in op.inputs if t.name in handles]
        inputs = [known[t.name] for t in op.inputs if t.name in known]
        if places:
            results = _on_values(op.type, values, places, inputs)
        elif op.type in ("Placeholder", "NoOp"):
            continue
        else:
            attrs = op.node_def.attr.items()
            copy = tf.compat.v1.get_default_graph().create_op(
                op.type,
                inputs,
                [tensor.dtype for tensor in op.outputs],
                attrs={k: v for k, v in attrs if not k.startswith("_")},
            )
            results = copy.outputs
        known |= {t.name: r for t, r in zip(op.outputs, results, strict=True)}
    return values, [known[t.name] for t in graph.outputs]


def _on_values(
    kind: str, values: Tensors, places: list[int], inputs: Tensors
) -> Tensors:
    """One operation on variables: changes `values` and returns its outputs."""
    first = places[0]
    if kind == "ReadVariableOp":
        return [values[first]]
    if kind == "ResourceApplyAdam":  # As its kernel for XLA computes it.
        weight, m, v = places
        power_1, power_2, rate, beta_1, beta_2, epsilon, gradient = inputs
        rate *= tf.sqrt(1 - power_2) / (1 - power_1)
        values[m] += (gradient - values[m]) * (1 - beta_1)
        values[v] += (tf.square(gradient) - values[v]) * (1 - beta_2)
        values[weight] -= rate * values[m] / (tf.sqrt(values[v]) + epsilon)
        return []
    change = {
        "AssignVariableOp": lambda old, new: new,
        "AssignAddVariableOp": tf.add,
        "AssignSubVariableOp": tf.subtract,
    }
    values[first] = change[kind](values[first], inputs[0])
    return []


def model_flops(config: schema.Config, stage: str, rows: int) -> float:
    """Useful ones of a replica's step, if its rows are full: one segment."""
    length = config.data.sequence_length
    if stage == "finetune":
        rows *= labelled_rows.Layout.of(config).chunks
        return flops.encoder(config.model, np.ones([rows, length], int))
    return flops.masked_lm(
        config.model,
        vocabulary_size=config.tokenizer.vocabulary_size,
        segment_ids=np.ones([rows, length], int),
        num_predicted=rows * config.num_predictions,
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--stage", default="pretrain")
    parser.add_argument("--replicas", type=int, required=True)
    parser.add_argument("--accumulation_steps", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    flags = parser.parse_args()
    changes = {"config.train.accumulation_steps": str(flags.accumulation_steps)}
    section = "finetune" if flags.stage == "finetune" else "train"
    config = overrides.load_config(flags.config, changes=changes)
    size = getattr(config, section).global_batch_size
    rows = size // flags.replicas
    changes[f"config.{section}.global_batch_size"] = str(rows)
    config = overrides.load_config(flags.config, changes=changes)

    task = create_task(config, flags.stage, tf.distribute.get_strategy())
    step = task.create_step()
    variables = task.model.variables + task.optimizer.variables
    call = pure_step(step, variables, flags.replicas)
    scalar = tf.TensorSpec([], tf.int64)
    specs = (
        [tf.TensorSpec(v.shape, v.dtype) for v in variables],
        batch_spec(config, flags.stage, rows),
        scalar,
        scalar,
    )
    flat = tf.function(  # Specs are taken one by one only.
        lambda *flat: call(*tf.nest.pack_sequence_as(specs, flat)),
        jit_compile=True,
        autograph=False,
    )
    lower = flat.experimental_get_compiler_ir(*tf.nest.flatten(specs))
    text = lower(stage="stablehlo", platform_name="TPU")
    facts = {
        "name": flags.out.name,
        "replicas": flags.replicas,
        "rows": rows,
        "accumulation_steps": flags.accumulation_steps,
        "parameters": task.model.count_params(),
        "variables": len(variables),
        "model_flops": model_flops(config, flags.stage, rows),
    }
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.with_suffix(".mlir").write_text(text)
    flags.out.with_suffix(".json").write_text(json.dumps(facts))
    counts = {
        word: text.count(f"stablehlo.{word}")
        for word in ("all_reduce", "dot_general", "while", "custom_call")
    }
    print(f"{flags.out}: lowered, {len(text):,} characters, {counts}")


if __name__ == "__main__":
    main()
