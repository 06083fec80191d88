"""Multiply what is reduced while it is in the cache: a reduction and the linear layers behind it become one operator.

Nothing with a row for each node is left in memory between them. A layer with weights of its own for the node itself, as
GraphSAGE has, joins in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.matching import is_constant, only_reader, producer
from gnnexport.targets.onnx.operators import dialect_nodes

_WEIGHT, _OWN, _ROOT, _BIAS = 3, 5, 7, 8
"""Places of inputs of `AggregateLinear`."""

_TURNED = "gnnexport.transposed"
"""Key of `Value.meta` of a matrix that has been turned: two layers may share it."""

_WIDE = 64
"""Columns of a result from which the processor's tiles multiply faster than the runtimes do by themselves."""


def fuse_linear(graph: ir.Graph) -> None:
    """Let reductions take over the linear layer that alone reads them, in place; before `fuse_epilogues`."""
    for node in dialect_nodes(graph):
        layer = only_reader(node.outputs[0]) if node.op_type == schemas.AGGREGATE else None
        if layer is not None and is_linear(layer):
            _join(graph, node, layer)


def fuse_own(graph: ir.Graph) -> None:
    """Let them take over the linear layer of their root term too; after `fuse_epilogues`."""
    for node in dialect_nodes(graph):
        if node.op_type != schemas.AGGREGATE_LINEAR or len(node.inputs) <= _ROOT:
            continue
        root = node.inputs[_ROOT]
        layer = producer(root, "Gemm") or producer(root, "MatMul")
        if root is None or layer is None or only_reader(root) is not node or not is_linear(layer):
            continue
        bias = _bias(layer)
        if bias is not None and node.inputs[_BIAS] is not None:
            continue
        node.replace_input_with(_OWN, layer.inputs[0])
        node.replace_input_with(_OWN + 1, _matrix(graph, layer))
        node.replace_input_with(_ROOT, None)
        if bias is not None:
            node.replace_input_with(_BIAS, bias)
        graph.remove(layer, safe=True)


def is_wide(layer: ir.Node) -> bool:
    """Tell whether a linear layer has so many columns that the kernels multiply faster where there are tiles."""
    return len(layer_weights(layer)) >= _WIDE


def take_layers(graph: ir.Graph, takes: Callable[[ir.Node], bool]) -> None:
    """Let the kernels multiply in other linear layers too, in place; what follows waits for `fuse_epilogues`.

    Args:
        graph: without layers that reductions take over.
        takes: tells whether a layer is better off so.
    """
    for node in list(graph):
        if is_linear(node) and takes(node):
            inputs = [node.inputs[0], _matrix(graph, node)]
            new = ir.Node(schemas.DOMAIN, schemas.LINEAR, inputs, name=f"{node.name}_fused")
            _put(graph, node, [node], new)


def is_linear(node: ir.Node) -> bool:
    """Tell whether a node multiplies rows with a constant matrix, and adds a constant row at most.

    Rows that are constant too are left to the runtime, which multiplies once, when it loads the model.
    """
    if node.domain != "" or node.op_type not in ("Gemm", "MatMul"):
        return False
    rows, matrix = node.inputs[:2]
    if rows is None or matrix is None or is_constant(rows) or not is_constant(matrix):
        return False
    if rows.shape is None or len(rows.shape) != 2 or _rank(matrix) != 2:
        return False
    if any(value.dtype != ir.DataType.FLOAT for value in (rows, matrix)):
        return False
    if node.op_type == "MatMul":
        return True
    plain = node.attributes.get_float("alpha", 1.0) == 1.0 and node.attributes.get_float("beta", 1.0) == 1.0
    bias = _bias(node)
    whole = bias is None or (is_constant(bias) and list(bias.shape or ()) == list(node.outputs[0].shape or ())[1:])
    return plain and not node.attributes.get_int("transA", 0) and whole


def layer_weights(layer: ir.Node) -> NDArray[Any]:
    """Return the weights of a linear layer, with a row for each output."""
    matrix = layer.inputs[1]
    assert matrix is not None
    assert matrix.const_value is not None
    values = matrix.const_value.numpy()
    return values if _stands(layer) else values.T


def _stands(layer: ir.Node) -> bool:
    """Tell whether the matrix of a layer has a row for each output already."""
    return layer.op_type == "Gemm" and bool(layer.attributes.get_int("transB", 0))


def _rank(value: ir.Value) -> int:
    return 0 if value.const_value is None else len(value.const_value.shape)


def _bias(layer: ir.Node) -> ir.Value | None:
    return layer.inputs[2] if len(layer.inputs) > 2 else None


def _join(graph: ir.Graph, node: ir.Node, layer: ir.Node) -> None:
    """Put one operator where the linear layer stood, and its bias behind it."""
    weight = node.inputs[_WEIGHT] if len(node.inputs) > _WEIGHT else None
    inputs = [*node.inputs[:_WEIGHT], weight, _matrix(graph, layer)]
    attributes = list(node.attributes.values())
    new = ir.Node(node.domain, schemas.AGGREGATE_LINEAR, inputs, attributes, name=f"{layer.name}_fused")
    _put(graph, layer, [layer, node], new)


def _put(graph: ir.Graph, layer: ir.Node, taken: list[ir.Node], new: ir.Node) -> None:
    """Put an operator where a linear layer stood, and the layer's bias behind it."""
    old, bias = layer.outputs[0], _bias(layer)
    out = new.outputs[0]
    out.name, out.shape, out.type = f"{old.name}_product", old.shape, old.type
    nodes = [new]
    if bias is not None:
        biased = ir.Value(name=f"{old.name}_biased", shape=old.shape, type=old.type)
        nodes.append(ir.Node("", "Add", [out, bias], outputs=[biased], name=f"{layer.name}_bias"))
    ir.convenience.replace_nodes_and_values(graph, layer, taken, nodes, [old], [nodes[-1].outputs[0]])


def _matrix(graph: ir.Graph, layer: ir.Node) -> ir.Value:
    """Return the weights of a layer with a row for each output."""
    matrix = layer.inputs[1]
    assert matrix is not None
    assert matrix.const_value is not None
    if _stands(layer):
        return matrix
    if _TURNED not in matrix.meta:
        names = (f"{matrix.name}_transposed{count or ''}" for count in itertools.count())
        name = next(name for name in names if name not in graph.initializers)
        turned = ir.Tensor(matrix.const_value.numpy().T.copy(), name=name)
        value = ir.Value(name=name, shape=turned.shape, type=matrix.type, const_value=turned)
        value.meta.update(matrix.meta)
        graph.register_initializer(value)
        matrix.meta[_TURNED] = value
    value = matrix.meta[_TURNED]
    assert isinstance(value, ir.Value)
    return value
