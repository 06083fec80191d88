"""Aggregate on the narrower side of each linear map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.program.graphs import args_of, argument, calls, parameter_of, rebuild
from gnnexport.program.program import Program
from gnnexport.program.shapes import SHAPES, is_scalar, like, rank_of
from gnnexport.program.simplify import drop_dead

aten = torch.ops.aten
gnn = torch.ops.gnn


NARROWING = 4.0
"""By how much a product has to narrow hidden channels to come first in mode `batched`."""


@dataclass(frozen=True)
class OrderPropagation(Pass):
    """Multiply by the weight before or after aggregating, whichever moves fewer bytes: (AX)W = A(XW).

    The gather moves one row per edge, so its width decides; the product costs the same on either side.

    Not so in mode `batched`, where many more neighbours are read than nodes computed: there the product follows, and is
    done for the nodes asked about alone. Only what makes a row of hidden channels much narrower comes first, for such
    rows are kept and read again.
    """

    name: ClassVar[str] = "order-propagation"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    margin: float = 1.0
    """Swap only when the width falls by more than this factor."""

    def __post_init__(self) -> None:
        if not self.margin >= 1:
            raise ValueError("margin must be at least 1, or layers would be swapped to and fro")

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Swap every linear map with its neighbouring aggregation where that is narrower."""
        program = program.clone()
        program.annotate()
        graph = program.body.graph
        for linear in calls(graph, aten.linear.default):
            weight = parameter_of(program.body, args_of(linear)[1])
            if weight is None or weight.dim() != 2:
                continue
            width_out, width_in = weight.shape
            leaf, after = _propagated_leaf(args_of(linear)[0]), _aggregation_after(linear)
            first, last = width_in > width_out * self.margin, width_out > width_in * self.margin
            if ctx.mode == "batched":
                raw = _is_raw(program, args_of(linear)[0] if leaf is None else leaf)
                first = width_in > width_out * NARROWING and not raw
                last = not first
            if leaf is not None and first:
                _transform_first(graph, linear, leaf)
                ctx.note(f"{linear.name}: aggregates {width_out} channels instead of {width_in}")
            elif after is not None and last:
                _aggregate_first(graph, linear, after)
                ctx.note(f"{linear.name}: aggregates {width_in} channels instead of {width_out}")
        drop_dead(graph)
        program.body = rebuild(program.body, graph)
        return program


def _is_raw(program: Program, node: Any) -> bool:
    """Tell features, or some columns of them."""
    if isinstance(node, fx.Node) and node.target is aten.index_select.default:
        node = args_of(node)[0]
    return isinstance(node, fx.Node) and node.op == "placeholder" and node.target in {i.name for i in program.features}


def _is_linear_aggregation(node: Any) -> bool:
    """Tell whether a node sums rows of a matrix with one weight per edge, or none."""
    return (
        isinstance(node, fx.Node)
        and node.target is gnn.aggregate.default
        and args_of(node)[4] in ("sum", "mean")
        and rank_of(node) == 2
    )


def _propagated_leaf(node: Any) -> fx.Node | None:
    """Return the one value that `node` is a linear combination of through aggregations, if it is one.

    GIN's `(1 + eps) * x + sum_j x_j` is such a combination: its linear map can be applied to `x` once.
    """
    leaves: set[fx.Node] = set()
    aggregations: list[fx.Node] = []
    for item in _combination(node):
        if item.target is gnn.aggregate.default:
            aggregations.append(item)
        leaves.update(child for child in _terms(item) if not list(_combination(child)))
    return leaves.pop() if len(leaves) == 1 and aggregations else None


def _combination(node: Any) -> list[fx.Node]:
    """Return the sums, scalings and aggregations that make `node` and serve nothing else, outermost first."""
    terms = _terms(node) if isinstance(node, fx.Node) and len(node.users) == 1 else []
    return [node, *(item for term in terms for item in _combination(term))] if terms else []


def _terms(node: fx.Node) -> list[fx.Node]:
    if _is_linear_aggregation(node):
        return [args_of(node)[0]]
    if rank_of(node) != 2 or node.kwargs:
        return []
    if node.target is aten.add.Tensor and all(rank_of(item) == 2 for item in args_of(node)):
        return list(args_of(node))
    if node.target is aten.mul.Tensor:
        return [item for item, other in (args_of(node), args_of(node)[::-1]) if rank_of(item) == 2 and is_scalar(other)]
    return []


def _aggregation_after(linear: fx.Node) -> fx.Node | None:
    users = list(linear.users)
    if len(users) != 1 or argument(linear, 2, "bias") is not None or not _is_linear_aggregation(users[0]):
        return None
    return users[0] if users[0].args[0] is linear else None


def _transform_first(graph: fx.Graph, linear: fx.Node, leaf: fx.Node) -> None:
    """Apply the linear map to the leaf and repeat the combination on the result, then add the bias."""
    source: Any = args_of(linear)[0]
    bias = argument(linear, 2, "bias")
    with graph.inserting_before(linear):
        product = like(graph.call_function(aten.linear.default, (leaf, args_of(linear)[1])), linear)
        done = {leaf: product}
        for item in reversed(_combination(source)):
            terms = set(_terms(item))
            target: Any = item.target
            args = tuple(done[part] if part in terms else part for part in args_of(item))
            done[item] = like(graph.call_function(target, args), linear)
        result = done[source]
        if bias is not None:
            result = like(graph.call_function(aten.add.Tensor, (result, bias)), linear)
    linear.replace_all_uses_with(result)


def _aggregate_first(graph: fx.Graph, linear: fx.Node, aggregation: fx.Node) -> None:
    source: Any = args_of(linear)[0]
    with graph.inserting_before(aggregation):
        summed = graph.call_function(gnn.aggregate.default, (source, *args_of(aggregation)[1:]))
        result = graph.call_function(aten.linear.default, (summed, args_of(linear)[1]))
    summed.meta = {**aggregation.meta, SHAPES: source.meta[SHAPES]}
    aggregation.replace_all_uses_with(like(result, aggregation))
