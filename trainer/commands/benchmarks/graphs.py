"""What a traced function holds in memory at once."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf


class Largest(NamedTuple):
    """The largest tensor of a graph."""

    num_bytes: int
    name: str
    shape: tuple[int, ...]


def largest_tensor(function: Any) -> Largest:
    """Of a concrete function and all that it calls; XLA may fuse some away."""
    return max(
        Largest(
            math.prod(tensor.shape) * tensor.dtype.size,
            tensor.name,
            tuple(tensor.shape),
        )
        for tensor in tensors(function.graph)
        if tensor.shape.is_fully_defined()
    )


def tensors(graph: Any) -> Iterator[tf.Tensor]:
    """Outputs of all operations of a graph and of the graphs that it calls."""
    for operation in graph.get_operations():
        yield from operation.outputs
    for function in graph._functions.values():
        yield from tensors(function.graph)
