"""Multiply weights of edges by a number once, instead of every sum over them by that number, as APPNP does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.matching import is_constant, only_reader, same_sizes
from gnnexport.targets.onnx.operators import dialect_nodes
from gnnexport.targets.onnx.tape import FOLDED, OF_GRAPH, Constants


def fold_scales(graph: ir.Graph) -> int:
    """Fold products of sums with a single number into weights of edges that are known, in place; return how many.

    Weights that another sum reads without that factor stay: they would be stored twice.
    """
    found = {node: scaled for node in dialect_nodes(graph) if (scaled := _scaled(node)) is not None}
    constants, folded = Constants(graph), 0
    for weight in dict.fromkeys(node.inputs[3] for node in found):
        assert weight is not None
        readers = [use.node for use in weight.uses()]
        if all(node in found and found[node][1] == found[readers[0]][1] for node in readers):
            for node in readers:
                _fold(graph, constants, node, *found[node])
            folded += len(readers)
    return folded


def _scaled(node: ir.Node) -> tuple[ir.Node, float] | None:
    """Return what multiplies a weighted sum by a single number, and that number; `None` where nothing does."""
    if node.op_type != schemas.AGGREGATE or node.attributes.get_string("reduce", "") != "sum":
        return None
    weight = node.inputs[3] if len(node.inputs) > 3 else None
    reader = only_reader(node.outputs[0])
    if weight is None or not is_constant(weight) or reader is None or reader.op_type != "Mul" or reader.domain:
        return None
    scale = reader.inputs[1] if reader.inputs[0] is node.outputs[0] else reader.inputs[0]
    number = None if scale is None else scale.const_value
    # A number with more dimensions than the sum has would give it some of its own.
    if number is None or number.size != 1 or not same_sizes(node.outputs[0], reader.outputs[0]):
        return None
    return reader, float(number.numpy().reshape(()))


def _fold(graph: ir.Graph, constants: Constants, node: ir.Node, product: ir.Node, scale: float) -> None:
    weight = node.inputs[3]
    assert weight is not None
    assert weight.const_value is not None
    given = weight.const_value.numpy()
    scaled = constants.add(
        (given.astype(np.float64) * scale).astype(given.dtype), of_graph=bool(weight.meta.get(OF_GRAPH))
    )
    if weight.meta.get(FOLDED):
        scaled.meta[FOLDED] = True
    old, last = node.outputs[0], product.outputs[0]
    out = ir.Value(name=f"{last.name}_scaled", shape=old.shape, type=old.type)
    inputs = [*node.inputs[:3], scaled, *node.inputs[4:]]
    new = ir.Node(
        node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=[out], name=f"{node.name}_scaled"
    )
    ir.convenience.replace_nodes_and_values(graph, product, [node, product], [new], [last], [out])
    if not weight.uses():
        graph.initializers.pop(str(weight.name), None)
