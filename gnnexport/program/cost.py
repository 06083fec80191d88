"""Parameters, multiply-accumulates and bytes of a Program on one graph, counted in Python integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, calls, module_of, parameter_of
from gnnexport.program.program import Program
from gnnexport.program.shapes import record_shapes

aten = torch.ops.aten
gnn = torch.ops.gnn

Kind = Literal["linear", "aggregation", "other"]

_PRODUCTS = {aten.linear.default, aten.matmul.default, aten.mm.default, aten.addmm.default}
_AGGREGATIONS = {gnn.aggregate.default, gnn.reduce_edges.default, gnn.edge_softmax.default}
_GATHERS = {gnn.aggregate.default, gnn.gather_source.default, gnn.gather_destination.default, aten.index_select.default}
_FREE = {aten.view.default, aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dim, aten.detach.default,
         aten.expand.default, aten.dropout.default, aten.alias.default, aten.select.int}  # fmt: skip
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class OpCost:
    """One op of the body.

    Args:
        name: of the node.
        module: PyTorch module it was captured from.
        kind: `linear` for products with weights, `aggregation` for sums over edges.
        macs: multiply-accumulates; an unweighted sum counts one per added number.
        bytes_moved: read and written; of a value that is gathered, each row counts once per edge. Every
            entry counts as four bytes.
    """

    name: str
    module: str
    kind: Kind
    macs: int
    bytes_moved: int


@dataclass(frozen=True)
class Cost:
    """All ops of a body on one graph."""

    ops: tuple[OpCost, ...]
    parameters: int
    parameter_bytes: int

    def macs(self, kind: Kind | None = None) -> int:
        """Sum the multiply-accumulates, of one kind or of all."""
        return sum(op.macs for op in self.ops if kind in (None, op.kind))

    def __add__(self, other: Cost) -> Cost:
        """Count both."""
        parameters, parameter_bytes = self.parameters + other.parameters, self.parameter_bytes + other.parameter_bytes
        return Cost((*self.ops, *other.ops), parameters, parameter_bytes)

    @property
    def bytes_moved(self) -> int:
        """Sum of the bytes all ops read and write."""
        return sum(op.bytes_moved for op in self.ops)


def measure_cost(program: Program, inputs: Mapping[str, Tensor]) -> Cost:
    """Count what one inference on this graph costs; the Program must be split."""
    return cost_of(program.body, [*(inputs[item.name] for item in program.features), *program.structure(inputs)])


def cost_of(body: fx.GraphModule, arguments: Sequence[Any]) -> Cost:
    """Count what one run of a body on these arguments costs."""
    shapes = record_shapes(body, arguments)
    ops = tuple(
        _op_cost(node, shapes)
        for node in body.graph.nodes
        if node.op == "call_function" and node in shapes and node.target not in _FREE
    )
    tensors = {str(node.target): value for node in body.graph.nodes if (value := parameter_of(body, node)) is not None}
    weights = [value for value in tensors.values() if isinstance(value, torch.nn.Parameter)]
    return Cost(
        ops,
        parameters=sum(value.numel() for value in weights),
        parameter_bytes=sum(value.numel() * value.element_size() for value in tensors.values()),
    )


def largest_gathered(program: Program, inputs: Mapping[str, Tensor]) -> int:
    """Return the bytes of the largest value whose rows are gathered, each of them once; the Program must be split."""
    shapes = _shapes(program, inputs)
    read = [args_of(node)[0] for node in calls(program.body.graph, *_GATHERS, aten.index.Tensor)]
    return max((math.prod(shapes[value]) * _FLOAT_BYTES for value in read if value in shapes), default=0)


def _shapes(program: Program, inputs: Mapping[str, Tensor]) -> dict[fx.Node, tuple[int, ...]]:
    structure = program.structure(inputs)
    return record_shapes(program.body, [*(inputs[item.name] for item in program.features), *structure])


def _op_cost(node: fx.Node, shapes: Mapping[fx.Node, tuple[int, ...]]) -> OpCost:
    out = math.prod(shapes[node])
    gathered = args_of(node)[0] if node.target in _GATHERS else None
    read = sum(math.prod(shapes[item]) for item in node.all_input_nodes if item in shapes and item is not gathered)
    if gathered is not None and node.target is not gnn.aggregate.default:
        read += out
    kind: Kind = "other"
    macs = 0
    if node.target in _PRODUCTS:
        kind = "linear"
        macs = out * _inner_size(node, shapes)
    elif node.target in _AGGREGATIONS:
        kind = "aggregation"
        width = math.prod(shapes[node][1:])
        slots = _slots(node, shapes)
        macs = slots * width
        read += slots * width if node.target is gnn.aggregate.default else 0
    return OpCost(node.name, module_of(node), kind, macs, (read + out) * _FLOAT_BYTES)


def _inner_size(node: fx.Node, shapes: Mapping[fx.Node, tuple[int, ...]]) -> int:
    first: Any = args_of(node)[1] if node.target is aten.addmm.default else args_of(node)[0]
    return shapes[first][-1]


def _slots(node: fx.Node, shapes: Mapping[fx.Node, tuple[int, ...]]) -> int:
    edges: Any = args_of(node)[2] if node.target is gnn.aggregate.default else args_of(node)[0]
    return shapes[edges][0]
