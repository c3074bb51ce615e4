"""Which operations an exported graph may hold; nothing of it is run here.

A SavedModel is a program: some operations of TensorFlow read and write files,
open connections or call Python. sha256 tells whether a file has changed, not
who wrote it, so that a graph is read before it is loaded.
"""

import collections
import pathlib
from typing import Any

from tensorflow.core.protobuf import saved_model_pb2

import storage

# What the exports of this project consist of, and operations like them: none
# reaches beyond the tensors that it is given, and the model's tables and
# variables.
_ALLOWED = frozenset(
    pathlib.Path(__file__).with_suffix(".txt").read_text().split()
)
# Functions of `tf.saved_model.save` hold them, to save the model once more.
# `tf.saved_model.load` never calls these functions, nor may anything else.
_SAVING = frozenset(
    ("MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename")
)


def check(directory: str) -> None:
    """Looks at every operation of a SavedModel.

    Raises:
      ValueError: `saved_model.pb` is no export of this project: it holds other
        operations, or what it calls cannot be told from it. Names them.
    """
    path = storage.path_of(directory) / "saved_model.pb"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(path.read_bytes())
    graphs = saved.meta_graphs
    # TensorFlow would run the graph of such a file while it loads it.
    if len(graphs) != 1 or not graphs[0].HasField("object_graph_def"):
        raise ValueError(_refusal(path, "another layout"))
    bodies: dict[str, list[Any]] = collections.defaultdict(list)
    for function in graphs[0].graph_def.library.function:
        bodies[function.signature.name] += function.node_def
        # TensorFlow may call another function with the same mark instead.
        if "api_implements" in function.attr:
            raise ValueError(_refusal(path, "interchangeable functions"))
    every = {node.op for nodes in bodies.values() for node in nodes}
    every |= {node.op for node in graphs[0].graph_def.node}
    refused = every - bodies.keys() - _ALLOWED - _SAVING
    for name in _callable(graphs[0], bodies):
        refused |= _SAVING & {node.op for node in bodies[name]}
    if refused:
        names = ", ".join(sorted(refused))
        raise ValueError(_refusal(path, f"the operations {names}"))


def _refusal(path: Any, found: str) -> str:
    return (
        f"{path} is refused, because it could read or write files: it has"
        f" {found}, which no export of Cloze has. Use an export that you made"
        " yourself with --mode=export."
    )


def _callable(graph: Any, bodies: dict[str, list[Any]]) -> set[str]:
    """Names of the functions that whoever loads the model can call."""
    objects, library = graph.object_graph_def, graph.graph_def.library
    pending = {*objects.concrete_functions}
    for node in objects.nodes:
        pending.update(node.function.concrete_functions)
        pending.add(node.bare_concrete_function.concrete_function_name)
    for gradient in (*library.gradient, *library.registered_gradients):
        pending.add(gradient.gradient_func)
    found: set[str] = set()
    while pending := pending & bodies.keys() - found:
        name = pending.pop()
        found.add(name)
        for node in bodies[name]:
            # Among them are names of what is no function.
            pending.add(node.op)
            for value in node.attr.values():
                pending.add(value.func.name)
                pending.update(used.name for used in value.list.func)
    return found
