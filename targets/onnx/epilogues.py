"""Give an operator of the dialect what follows it: a root term, a bias, an activation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.matching import is_constant, only_reader, same_rows, same_sizes
from gnnexport.targets.onnx.operators import dialect_nodes

_PLACES = {
    schemas.AGGREGATE: 4,
    schemas.AGGREGATE_LINEAR: 7,
    schemas.LINEAR: 2,
    schemas.REDUCE_EDGES: 2,
    schemas.ATTENTION: 8,
}
"""Where an operator takes its root term; the bias follows."""


@dataclass
class _Found:
    """What follows one operator, and the nodes that it takes over."""

    root: ir.Value | None = None
    bias: ir.Value | None = None
    attributes: dict[str, str | float] = field(default_factory=dict)
    flat: ir.Node | None = None
    taken: list[ir.Node] = field(default_factory=list)


def fuse_epilogues(graph: ir.Graph, kinds: Collection[str] = tuple(_PLACES)) -> None:
    """Let every operator of some kinds take over what follows it, in place; none may have taken anything yet."""
    for node in dialect_nodes(graph):
        if node.op_type in kinds:
            found = _follow(node)
            if found.root is not None or found.bias is not None or found.attributes:
                _replace(graph, node, found)


def _follow(node: ir.Node) -> _Found:
    """Walk from an operator to what reads its result, as long as that is one node which it can take over."""
    found = _Found()
    value = node.outputs[0]
    while (reader := only_reader(value)) is not None and reader.domain == "":
        if reader.op_type == "Reshape" and found.flat is None and not found.taken and _flattens(reader):
            found.flat = reader
        elif not _take(node, reader, value, found):
            break
        else:
            found.taken.append(reader)
            if found.attributes:
                break
        value = reader.outputs[0]
    return found


def _take(node: ir.Node, reader: ir.Node, value: ir.Value, found: _Found) -> bool:
    if reader.op_type == "Add":
        other = reader.inputs[1] if reader.inputs[0] is value else reader.inputs[0]
        return other is not None and other is not value and _take_term(value, other, found)
    activation = activation_of(reader)
    if activation is None or (node.op_type == schemas.ATTENTION and schemas.SLOPE in activation):
        return False
    found.attributes = activation
    return True


def _take_term(value: ir.Value, other: ir.Value, found: _Found) -> bool:
    if is_constant(other) and found.bias is None and is_row_of(other, value):
        found.bias = other
        return True
    if found.root is None and same_sizes(other, value):
        found.root = other
        return True
    return False


def activation_of(node: ir.Node) -> dict[str, str | float] | None:
    """Return the attributes of an operator that does what a node does; `None` where it is no activation of ours."""
    if node.op_type == "Relu":
        return {schemas.ACTIVATION: "relu"}
    if node.op_type == "LeakyRelu":
        alpha = node.attributes.get_float("alpha", 0.01)
        return {schemas.ACTIVATION: "leaky_relu", schemas.SLOPE: alpha}
    if node.op_type == "Elu" and node.attributes.get_float("alpha", 1.0) == 1.0:
        return {schemas.ACTIVATION: "elu"}
    return None


def is_row_of(bias: ir.Value, value: ir.Value) -> bool:
    """Tell whether a constant has one number for each column of a matrix."""
    if bias.shape is None or value.shape is None or len(value.shape) != 2:
        return False
    columns = value.shape[1]
    return isinstance(columns, int) and list(bias.shape) in ([columns], [1, columns])


def _flattens(node: ir.Node) -> bool:
    """Tell whether a node only joins the axes behind the rows."""
    before, after = node.inputs[0], node.outputs[0]
    if before is None or before.shape is None or after.shape is None or len(after.shape) != 2:
        return False
    tail = list(before.shape)[1:]
    return same_rows(before, after) and all(isinstance(size, int) for size in (*tail, after.shape[1]))


def _replace(graph: ir.Graph, node: ir.Node, found: _Found) -> None:
    """Put the operator with all it took over where the last node of it stood."""
    place = _PLACES[node.op_type]
    inputs = [*node.inputs, *[None] * (place - len(node.inputs)), found.root, found.bias]
    old, last = node.outputs[0], found.taken[-1].outputs[0]
    out = ir.Value(name=f"{last.name}_fused", shape=old.shape, type=old.type)
    attributes = [*node.attributes.values(), *ir.convenience.convert_attributes(found.attributes)]
    new = [ir.Node(node.domain, node.op_type, inputs, attributes, outputs=[out], name=f"{node.name}_fused")]
    if found.flat is not None:
        flat = ir.Value(name=f"{last.name}_flat", shape=last.shape, type=last.type)
        shape = found.flat.inputs[1]
        new.append(ir.Node("", "Reshape", [out, shape], found.flat.attributes.values(), outputs=[flat]))
    taken = [item for item in (node, found.flat, *found.taken) if item is not None]
    ir.convenience.replace_nodes_and_values(graph, found.taken[-1], taken, new, [last], [new[-1].outputs[0]])
