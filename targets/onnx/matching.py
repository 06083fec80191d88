"""Ask small questions about a graph of ONNX nodes."""

from __future__ import annotations

import onnx_ir as ir


def producer(value: ir.Value | None, op_type: str, domain: str = "") -> ir.Node | None:
    """Return the node that makes a value, if it is of this kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain == domain else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a value, once; `None` where there are more, or the graph gives it out."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def is_constant(value: ir.Value | None) -> bool:
    """Tell whether a value is known before the model runs."""
    return value is not None and value.const_value is not None


def same_sizes(first: ir.Value, second: ir.Value) -> bool:
    """Tell whether two values have the same sizes for certain."""
    if first.shape is None or second.shape is None or len(first.shape) != len(second.shape):
        return False
    pairs = zip(first.shape, second.shape, strict=True)
    return all(left == right and _is_said(left) for left, right in pairs)


def _is_said(size: int | ir.SymbolicDim) -> bool:
    return isinstance(size, int) or size.value is not None
