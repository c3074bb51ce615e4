"""Which operations an exported graph may hold; nothing of it is run here.

A SavedModel is a program: some operations of TensorFlow read and write files,
open connections or call Python. sha256 tells whether a file has changed, not
who wrote it, so that a graph is read before it is loaded.
"""

import collections
from collections.abc import Iterable
from typing import Any

from tensorflow.core.protobuf import saved_model_pb2

import storage

# What the exports of this project consist of, and operations like them: none
# reaches beyond the tensors that it is given, and the model's tables and
# variables.
_ALLOWED = frozenset(
    """
    Abs AddN AddV2 All Any ArgMax AsString Assert AssignVariableOp BatchMatMulV2
    BiasAdd BiasAddGrad Bitcast BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs
    BroadcastGradientArgs BroadcastTo CaseFoldUTF8 Cast Ceil ConcatV2 Const
    Cumsum DenseBincount DisableCopyOnRead DivNoNan Einsum EnsureShape Equal Erf
    Erfc Exp ExpandDims FastWordpieceTokenizeWithOffsets Fill Floor FloorDiv
    FloorMod GatherNd GatherV2 Greater GreaterEqual HashTableV2 Identity
    IdentityN If InvertPermutation LeftShift Less LessEqual Log Log1p LogSoftmax
    LogicalAnd LogicalNot LogicalOr LookupTableFindV2 LookupTableImportV2
    LookupTableSizeV2 LowerBound MatMul Max Maximum Mean Min Minimum Mul Neg
    NoOp NormalizeUTF8 NotEqual OnesLike Pack Pad PartitionedCall Placeholder
    Pow Prod RaggedBincount RaggedGather RaggedRange RaggedTensorToTensor Range
    ReadVariableOp RealDiv Reciprocal RegexSplitWithOffsets Relu ReluGrad
    Reshape ReverseV2 RightShift Round Rsqrt RsqrtGrad ScatterNd SegmentMax
    SegmentSum Select SelectV2 Shape Sigmoid SigmoidGrad Sign Size Slice Softmax
    Split SplitV Sqrt SqrtGrad Square SquaredDifference Squeeze
    StatefulPartitionedCall StatelessIf StatelessWhile StaticRegexFullMatch
    StaticRegexReplace StopGradient StridedSlice StringJoin StringLength
    StringLower StringSplitV2 StringUpper Sub Substr Sum Tanh TanhGrad
    TensorListConcatV2 TensorListFromTensor TensorListGetItem TensorListLength
    TensorListReserve TensorListSetItem TensorListStack TensorScatterAdd
    TensorScatterUpdate Tile TopKV2 Transpose UnicodeDecodeWithOffsets
    UnicodeTranscode Unique Unpack UnsortedSegmentMax UnsortedSegmentMin
    UnsortedSegmentSum UpperBound VarHandleOp Where While ZerosLike
    """.split()
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
    pending = {
        *objects.concrete_functions,
        *(
            name
            for o in objects.nodes
            for name in o.function.concrete_functions
        ),
        *(
            o.bare_concrete_function.concrete_function_name
            for o in objects.nodes
        ),
        *(gradient.gradient_func for gradient in library.gradient),
        *(gradient.gradient_func for gradient in library.registered_gradients),
    } & bodies.keys()
    found: set[str] = set()
    while pending:
        name = pending.pop()
        found.add(name)
        called = {used for node in bodies[name] for used in _used(node)}
        pending |= called & bodies.keys() - found
    return found


def _used(node: Any) -> Iterable[str]:
    """Names of the functions, among others, that an operation calls."""
    yield node.op
    for value in node.attr.values():
        yield value.func.name
        yield from (function.name for function in value.list.func)
