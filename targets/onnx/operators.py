"""The dialect's operators in a model, read once for the lowerings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.errors import UnsupportedError
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.tape import sizes


@dataclass(frozen=True)
class Operator:
    """One operator of the dialect whose structure is known.

    Args:
        node: where it stands.
        x: node features [num_src, ...] or edge values [num_slots, ...], its first input.
        weight: edge weights [num_slots] or [num_slots, heads], or `None`.
        reduce: `sum`, `mean`, `max`, `min`, or empty where nothing is reduced.
        rowptr: [num_dst + 1], or `None` where the operator needs none.
        col: source of each slot, or `None` where the operator needs none.
    """

    node: ir.Node
    x: ir.Value
    weight: ir.Value | None
    reduce: str
    rowptr: NDArray[np.int64] | None
    col: NDArray[np.int64] | None

    @property
    def kind(self) -> str:
        """The name of the operator."""
        return self.node.op_type

    @property
    def out(self) -> ir.Value:
        """The operator's result."""
        return self.node.outputs[0]

    @property
    def tail(self) -> tuple[int, ...]:
        """Sizes of one row of `x`."""
        return sizes(self.x)[1:]

    @property
    def num_slots(self) -> int:
        """Edges of the structure."""
        if self.col is not None:
            return len(self.col)
        assert self.rowptr is not None
        return int(self.rowptr[-1])

    @property
    def static_weight(self) -> NDArray[np.floating] | None:
        """The edge weights where they are constant."""
        if self.weight is None or self.weight.const_value is None:
            return None
        return self.weight.const_value.numpy()


def read(node: ir.Node) -> Operator:
    """Read one node of the dialect.

    Raises:
        UnsupportedError: the structure is not a constant: the model is not baked.
    """
    inputs = list(node.inputs)
    x = inputs[0]
    assert x is not None
    rowptr: ir.Value | None = None
    col: ir.Value | None = None
    if node.op_type == schemas.GATHER_SOURCE:
        col = inputs[1]
    else:
        rowptr = inputs[1]
        col = inputs[2] if node.op_type == schemas.AGGREGATE else None
    attribute = node.attributes.get("reduce")
    return Operator(
        node=node,
        x=x,
        weight=inputs[3] if len(inputs) > 3 else None,
        reduce=attribute.as_string() if attribute is not None else "",
        rowptr=_constant(node, rowptr),
        col=_constant(node, col),
    )


def dialect_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Return every node of the dialect, in graph order."""
    return [node for node in graph if node.domain == schemas.DOMAIN]


def _constant(node: ir.Node, value: ir.Value | None) -> NDArray[np.int64] | None:
    if value is None:
        return None
    if value.const_value is None:
        what = f"the structure '{value.name}' is computed inside the model"
        raise UnsupportedError.at(f"onnx: {node.name or node.op_type}", what, "Make it depend on the edge index alone")
    return value.const_value.numpy().astype(np.int64)
