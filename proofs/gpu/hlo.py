"""Checks what XLA would compile for a GPU, on a machine without one.

    python -m proofs.gpu.hlo [sample imdb ...]

Lowers the step and the validation of both stages of every recipe to HLO, and
names what a GPU would wait for: a call to the host, a shape that is not static,
or the logits of more predictions than a chunk has.
"""

import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from configs import automatic, overrides, schema
from proofs.tpu import lower
from trainer.stages import tasks
from trainer.training import cross_entropy

RECIPES = (
    *("default", "sample", "imdb", "imdb_large", "imdb_notebook"),
    *("bert_small", "bert_base"),
)
STAGES = ("pretrain", "finetune")
_HOST = re.compile(r" (infeed|outfeed|send|recv|custom-call)\(")
_SHAPE = re.compile(r"\b(?:pred|[subf]f?\d+)\[([\d,<=]+)\]")
_SIZE = re.compile(r"set-dimension-size\([^)]*s32\[\] %(\S+)\)")


def faults(text: str, *, vocabulary: int, most: int) -> list[str]:
    """What a GPU would wait for, or have no memory for.

    Args:
      text: an HLO module.
      vocabulary: V.
      most: rows that a tensor with V columns may have.
    """
    found = {
        f"a call to the host: {match[1]}" for match in _HOST.finditer(text)
    }
    for match in _SIZE.finditer(text):
        if f"%{match[1]} = s32[] constant(" not in text:
            found.add(f"a size that is computed: %{match[1]}")
    for shape in {match[1] for match in _SHAPE.finditer(text)}:
        if "<=" in shape:
            found.add(f"a dynamic shape: [{shape}]")
            continue
        sizes = [int(size) for size in shape.split(",")]
        if vocabulary in sizes and math.prod(sizes) > most * vocabulary:
            found.add(f"more rows of V than a chunk has: [{shape}]")
    return sorted(found)


def lowered(config: schema.Config, stage: str) -> Iterator[tuple[str, str]]:
    """(name, HLO) of the step and of the validation of a stage."""
    section = config.finetune if stage == "finetune" else config.train
    task = lower.create_task(config, stage, tf.distribute.get_strategy())
    batch = lower.batch_spec(config, stage, section.global_batch_size)
    variables = task.model.variables + task.optimizer.variables
    values = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
    scalar = tf.TensorSpec([], tf.int64)
    step = lower.pure_step(task.create_step(), variables, replicas=1)
    yield "step", _hlo(step, values, batch, scalar, scalar)
    validate = _pure_validation(task, variables)
    yield "validation", _hlo(validate, values, batch)


def _pure_validation(
    task: tasks.Task, variables: list[keras.Variable]
) -> Callable[..., Any]:
    def call(values: list[tf.Tensor], batch: dict[str, tf.Tensor]) -> Any:
        scope = zip(variables, values, strict=True)
        with keras.StatelessScope(list(scope)):
            return list(task.evaluation_objective(batch).values())

    return call


def _hlo(function: Callable[..., Any], *specs: Any) -> str:
    flat = tf.function(  # Specs are taken one by one only.
        lambda *flat: function(*tf.nest.pack_sequence_as(specs, flat)),
        jit_compile=True,
        autograph=False,
    )
    ir = flat.experimental_get_compiler_ir(*tf.nest.flatten(specs))
    text: str = ir(stage="hlo", platform_name="GPU")
    return text


def main(names: list[str]) -> int:
    """Prints a line for each module; 1 if one has a fault."""
    failed = False
    for name in names or RECIPES:
        path = str(overrides.find(name))
        config = overrides.load_config(path, changes={})
        config = automatic.fitted(config, automatic.TYPICAL)
        for stage in STAGES:
            for part, text in lowered(config, stage):
                most = max(
                    *cross_entropy.CHUNK_ROWS.values(),
                    config.model.hidden_size + 1,
                )
                vocabulary = config.tokenizer.vocabulary_size
                wrong = faults(text, vocabulary=vocabulary, most=most)
                failed |= bool(wrong)
                verdict = "; ".join(wrong) or "well"
                print(f"{name}, {stage}, {part}: {verdict}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
