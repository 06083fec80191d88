"""The dialect's operators in a model, read once for the lowerings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
        weight: edge weights that are computed, [num_slots] or [num_slots, heads], or `None`.
        static_weight: edge weights that are constant, in slot order, or `None`.
        reduce: `sum`, `mean`, `max`, `min`, `prod`, or empty where nothing is reduced.
        rowptr: [num_dst + 1], or `None` where the operator needs none.
        col: row of `x` that each slot reads, or `None` where the operator reads edge values or destinations.
        position: row of each slot in values that have a row for each slot; `None` where that is slot order.
    """

    node: ir.Node
    x: ir.Value
    weight: ir.Value | None
    static_weight: NDArray[Any] | None
    reduce: str
    rowptr: NDArray[np.int64] | None
    col: NDArray[np.int64] | None
    position: NDArray[np.int64] | None = None

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
    def weight_shape(self) -> tuple[int, ...] | None:
        """Sizes of the edge weights, constant or not; `None` without weights."""
        if self.static_weight is not None:
            return self.static_weight.shape
        return None if self.weight is None else sizes(self.weight)

    @property
    def rows_of_slots(self) -> NDArray[np.int64]:
        """Destination of each slot."""
        assert self.rowptr is not None
        return np.repeat(np.arange(len(self.rowptr) - 1), np.diff(self.rowptr))

    def by_position(self, per_slot: NDArray[Any]) -> NDArray[Any]:
        """Bring an array with a row for each slot into the order of edge values."""
        if self.position is None:
            return per_slot
        placed = np.empty_like(per_slot)
        placed[self.position] = per_slot
        return placed


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
    weight = inputs[3] if len(inputs) > 3 else None
    static = None if weight is None or weight.const_value is None else weight.const_value.numpy()
    return Operator(
        node=node,
        x=x,
        weight=weight if static is None else None,
        static_weight=static,
        reduce=attribute.as_string() if attribute is not None else "",
        rowptr=None if rowptr is None else constant(rowptr),
        col=None if col is None else constant(col),
    )


def dialect_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Return every node of the dialect, in graph order."""
    return [node for node in graph if node.domain == schemas.DOMAIN]


def constant(value: ir.Value) -> NDArray[np.int64]:
    """Return a constant of the structure.

    Raises:
        UnsupportedError: it is computed inside the model.
    """
    if value.const_value is None:
        what = f"the structure '{value.name}' is computed inside the model"
        raise UnsupportedError.at("onnx", what, "Make it depend on the edge index alone")
    return value.const_value.numpy().astype(np.int64)
