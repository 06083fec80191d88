"""Tell which values of a Program can never be negative, whatever features and graph it is given."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from gnnexport.program.binding import CREATIONS
from gnnexport.program.graphs import args_of, argument, output_node, parameter_of
from gnnexport.program.program import Program, placeholder_names
from gnnexport.program.shapes import DTYPE

aten = torch.ops.aten
gnn = torch.ops.gnn

_ALWAYS = {
    aten.relu.default, aten.sigmoid.default, aten.exp.default, aten.abs.default, aten.softmax.int,
    aten._softmax.default, aten.softplus.default, aten.relu6.default, aten.square.default,
    gnn.edge_softmax.default,
}  # fmt: skip
_KEEPS = {
    aten.dropout.default, aten.reshape.default, aten.view.default, aten.unsqueeze.default, aten.squeeze.dim,
    aten.expand.default, aten.expand_as.default, aten.index_select.default, aten.index.Tensor, aten.slice.Tensor,
    aten.select.int, aten.transpose.int, aten.t.default, aten.alias.default, aten.clone.default,
    aten.contiguous.default, aten.detach.default, aten.leaky_relu.default, aten.elu.default, aten.sqrt.default,
    aten.rsqrt.default, aten.reciprocal.default, aten.pow.Tensor_Scalar, aten.sum.dim_IntList, aten.mean.dim,
    aten.amax.default, aten.amin.default, aten.permute.default, aten.repeat.default, aten.split_with_sizes.default,
    gnn.reduce_edges.default, gnn.gather_source.default, gnn.gather_destination.default,
    gnn.quantize_rows.default, gnn.quantize_columns.default, gnn.quantize_nearest.default,
    aten._to_copy.default, operator.getitem,
}  # fmt: skip
"""Ops whose result has no negative entry where their first argument has none."""

_COMBINES = {
    aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.maximum.default, aten.minimum.default,
    aten.scatter_add.default, aten.scatter_reduce.two, aten.masked_fill.Scalar, aten.cat.default, aten.stack.default,
    gnn.aggregate.default,
}  # fmt: skip
"""Ops whose result has no negative entry where none of the numbers that they read has one."""

_NUMBERS: dict[Any, Callable[[fx.Node], list[Any]]] = {
    aten.scatter_add.default: lambda node: [args_of(node)[0], args_of(node)[3]],
    aten.scatter_reduce.two: lambda node: [args_of(node)[0], args_of(node)[3]],
    aten.masked_fill.Scalar: lambda node: [args_of(node)[0], args_of(node)[2]],
    aten.cat.default: lambda node: list(args_of(node)[0]),
    aten.stack.default: lambda node: list(args_of(node)[0]),
    gnn.aggregate.default: lambda node: [args_of(node)[0], args_of(node)[3]],
}
"""What of their arguments is numbers, where it is not all."""


class Signs:
    """Answers for one Program that is split and annotated."""

    def __init__(self, program: Program) -> None:
        self._known: dict[fx.Node, bool] = {}
        self._modules: dict[fx.Graph, fx.GraphModule] = {program.body.graph: program.body}
        self._given: dict[str, fx.Node] = {}
        if program.prepare is not None:
            self._modules[program.prepare.graph] = program.prepare
            values = args_of(output_node(program.prepare.graph))[0]
            names = placeholder_names(program.body)[len(program.features) :]
            self._given = dict(zip(names, values, strict=True))

    def nonnegative(self, value: Any) -> bool:
        """Tell whether no entry of a value of the body can be below zero; an argument that is missing has none."""
        if value is None:
            return True
        if isinstance(value, int | float):
            return value >= 0
        if not isinstance(value, fx.Node):
            return False
        if value not in self._known:
            self._known[value] = self._judge(value)
        return self._known[value]

    def _judge(self, node: fx.Node) -> bool:
        if node.op == "placeholder":
            return self._in_prepare(node)
        if node.op == "get_attr":
            constant = parameter_of(self._modules[node.graph], node)
            # A parameter may be trained below zero.
            return constant is not None and not constant.requires_grad and bool((constant >= 0).all())
        if node.target in _ALWAYS or node.meta.get(DTYPE) is torch.bool:
            return True
        if node.target in CREATIONS:
            return True
        if node.target is aten.full.default:
            return self.nonnegative(args_of(node)[1])
        if node.target in _KEEPS:
            return self.nonnegative(args_of(node)[0])
        if node.target in (aten.hardtanh.default, aten.clamp.default):
            least = argument(node, 1, "min_val" if node.target is aten.hardtanh.default else "min", -1.0)
            return least is not None and self.nonnegative(least)
        if node.target not in _COMBINES:
            return False
        rule = _NUMBERS.get(node.target)
        # An addition may weigh its second operand by alpha.
        numbers = list(args_of(node)) + list(node.kwargs.values()) if rule is None else rule(node)
        return all(self.nonnegative(item) for item in numbers)

    def _in_prepare(self, node: fx.Node) -> bool:
        """Judge a structure value by what `prepare` makes it of; features and edge weights may be anything."""
        made = self._given.get(str(node.target)) if node.graph in self._modules else None
        body_side = made is not None and made.graph is not node.graph
        return body_side and self.nonnegative(made)
