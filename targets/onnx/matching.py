"""Ask small questions about a graph of ONNX nodes."""

from __future__ import annotations

import onnx_ir as ir

_Size = int | ir.SymbolicDim


def producer(value: ir.Value | None, op_type: str, domain: str = "") -> ir.Node | None:
    """Return the node that makes a value, if it is of this kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain == domain else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node of the same graph that reads a value, once; `None` where others do, or it is given out."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    reader, maker = uses[0].node, value.producer()
    return reader if maker is not None and reader.graph is maker.graph else None


def is_constant(value: ir.Value | None) -> bool:
    """Tell whether a value is known before the model runs."""
    return value is not None and value.const_value is not None


def same_sizes(first: ir.Value, second: ir.Value) -> bool:
    """Tell whether two values have the same sizes for certain."""
    return first.shape is not None and second.shape is not None and _same(list(first.shape), list(second.shape))


def same_rows(first: ir.Value, second: ir.Value) -> bool:
    """Tell whether two values have equally many rows for certain."""
    if not first.shape or not second.shape:
        return False
    return _same(list(first.shape)[:1], list(second.shape)[:1])


def same_columns(first: ir.Value, second: ir.Value) -> bool:
    """Tell whether the rows of two values have the same sizes for certain."""
    if not first.shape or not second.shape:
        return False
    return _same(list(first.shape)[1:], list(second.shape)[1:])


def _same(first: list[_Size], second: list[_Size]) -> bool:
    # Two sizes of which nothing is known compare as equal in onnx_ir.
    return first == second and all(isinstance(size, int) or size.value is not None for size in first)
