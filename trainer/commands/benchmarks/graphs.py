"""What a traced function holds in memory at once."""

import math
from collections.abc import Iterator
from typing import Any

import tensorflow as tf


def largest_tensor(function: Any) -> tuple[int, tf.Tensor]:
    """(bytes, tensor) of a concrete function and of all that it calls.

    XLA may fuse it away.
    """
    sizes = [
        (math.prod(tensor.shape) * tensor.dtype.size, tensor)
        for tensor in _tensors(function.graph)
        if tensor.shape.is_fully_defined()
    ]
    return max(sizes, key=lambda size: size[0])


def _tensors(graph: Any) -> Iterator[tf.Tensor]:
    for operation in graph.get_operations():
        yield from operation.outputs
    for function in graph._functions.values():
        yield from _tensors(function.graph)
