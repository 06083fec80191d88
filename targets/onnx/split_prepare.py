"""Cut a model in two: what depends on the graph alone, and what a request's features go through."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir
from onnx_ir.passes import common as passes

_OF_SIZES = ("Add", "Cast", "Concat", "Gather", "Mul", "Reshape", "Shape", "Squeeze", "Sub", "Unsqueeze")
"""Operators on sizes, which both parts compute for themselves."""

_INDEX_PLACE = {"Gather": 1}
"""Which input of an operator may be int32 or int64."""


def split_prepare(model: ir.Model, structure: Collection[str], *, int32: bool = False) -> tuple[ir.Model, ir.Model]:
    """Return a model that computes all that depends on the graph alone, and one that takes it as inputs.

    Args:
        model: in standard operators, as `lower_graphs` gives it; left as it was.
        structure: names of the inputs that belong to the graph; the sizes of all inputs do so as well.
        int32: hand indices over as int32, for engines that are faster or safer with them.

    Returns:
        `prepare`, with the inputs that it reads and an output for each value that the body needs, and `body`, with
        the other inputs and then those values, all by their names in the model. An input that the body needs as it is
        crosses under a name of its own.
    """
    model = model.clone()
    passes.ShapeInferencePass()(model)
    prepare, body = model.clone(), model.clone()
    boundary = _boundary(model.graph, structure)
    _keep_prepare(prepare.graph, boundary, int32)
    _keep_body(body.graph, structure, boundary, int32)
    for part in (prepare, body):
        passes.RemoveUnusedNodesPass()(part)
    prepare.graph.inputs[:] = [value for value in prepare.graph.inputs if value.uses()]
    return prepare, body


def _boundary(graph: ir.Graph, structure: Collection[str]) -> list[ir.Value]:
    """Return the values known before the features are, and read after, in graph order."""
    constant: set[ir.Value] = set(graph.initializers.values())
    early = {value for value in graph.inputs if value.name in structure}
    late = set(graph.inputs) - early
    wanted = set(graph.outputs)
    for node in graph:
        read = set(_read(node))
        if node.op_type == "Shape" and read <= late & set(graph.inputs):
            read = set()
        if read <= constant and (not read or node.op_type in _OF_SIZES or read <= set(graph.initializers.values())):
            constant.update(node.outputs)
        elif read <= constant | early:
            early.update(node.outputs)
        else:
            wanted.update(read)
    made = [*graph.inputs, *(out for node in graph for out in node.outputs)]
    return [value for value in made if value in early and value in wanted]


def _read(node: ir.Node) -> Iterable[ir.Value]:
    """Return what a node reads, in its branches as well."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            own = {out for inner in attribute.as_graph() for out in inner.outputs}
            yield from (value for inner in attribute.as_graph() for value in _read(inner) if value not in own)


def _keep_prepare(graph: ir.Graph, boundary: list[ir.Value], int32: bool) -> None:
    known = _by_name(graph)
    outputs = []
    for item in boundary:
        value, name = known[str(item.name)], _crossing(item)
        if value.name == name and int32 and value.dtype is ir.DataType.INT64:
            value.name = f"{name}_wide"
        if value.name != name:
            assert item.dtype is not None
            node = _cast(value, _handed_over(item.dtype, int32), name)
            graph.append(node)
            value = node.outputs[0]
        outputs.append(value)
    graph.outputs[:] = outputs


def _crossing(value: ir.Value) -> str:
    """Name what is handed over; an input of the graph keeps its own name for what a request brings."""
    return f"{value.name}_given" if value.is_graph_input() else str(value.name)


def _handed_over(dtype: ir.DataType, int32: bool) -> ir.DataType:
    return ir.DataType.INT32 if int32 and dtype is ir.DataType.INT64 else dtype


def _keep_body(graph: ir.Graph, structure: Collection[str], boundary: list[ir.Value], int32: bool) -> None:
    """Replace the boundary values by inputs."""
    known = _by_name(graph)
    features = [value for value in graph.inputs if value.name not in structure]
    given = []
    for item in boundary:
        old = known[str(item.name)]
        old.name = f"{item.name}_inside"
        new = ir.Value(name=_crossing(item), shape=item.shape, type=item.type)
        if int32 and item.dtype is ir.DataType.INT64:
            new.type = ir.TensorType(ir.DataType.INT32)
            _feed_int32(graph, old, new)
        else:
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        given.append(new)
    graph.inputs[:] = [*features, *given]


def _feed_int32(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let operators that take either read the narrow value, and all others a cast of it."""
    for node, place in list(old.uses()):
        if _INDEX_PLACE.get(node.op_type) == place:
            node.replace_input_with(place, new)
    if old.uses() or old.is_graph_output():
        cast = _cast(new, ir.DataType.INT64, f"{new.name}_wide")
        ir.convenience.replace_all_uses_with(old, cast.outputs[0], replace_graph_outputs=True)
        graph.insert_before(graph[0], [cast])


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    out = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
    return ir.node("Cast", [value], {"to": int(dtype)}, outputs=[out], name=f"cast_{name}")


def _by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    values = (*graph.inputs, *(out for node in graph for out in node.outputs))
    return {str(value.name): value for value in values}
