"""Bring nodes and edges to the first dimension where a layer keeps them in another, as one with several stacks does."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from gnnexport.program.binding import CREATIONS, takes_like
from gnnexport.program.graphs import args_of, calls
from gnnexport.program.shapes import DTYPE, SHAPES, like, rank_of

aten = torch.ops.aten

_SCATTERS = (aten.scatter_add.default, aten.scatter_reduce.two, aten.index_add.default)
_ELEMENTWISE = {
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.exp.default,
    aten.relu.default, aten.leaky_relu.default, aten.elu.default, aten.sigmoid.default, aten.tanh.default,
    aten.dropout.default, aten.detach.default,
}  # fmt: skip
_EXPANSIONS = {aten.expand.default, aten.expand_as.default}
_SPREADS = {*_EXPANSIONS, aten.view.default, aten.reshape.default, aten.unsqueeze.default}


def bring_rows_to_front(graph: fx.Graph) -> int:
    """Rewrite scatters along another dimension than the first to scatters along the first; returns how many.

    What they read is transposed, and the transposition sunk to where node features are gathered. The graph must be
    annotated, and must be again afterwards.
    """
    done = 0
    for node in calls(graph, *_SCATTERS):
        init, dim, index, source = args_of(node)[:4]
        rank = rank_of(node)
        if rank < 2 or not isinstance(dim, int) or dim % rank == 0 or init.target not in CREATIONS:
            continue
        axis = dim % rank
        flat = index if rank_of(index) == 1 else _spread_along(index, axis)
        if flat is None or rank_of(source) != rank:
            continue
        front = _Front(graph, node, axis)
        messages = front.of(source)
        start = front.created(init)
        spread = flat if node.target is aten.index_add.default else front.index(flat, messages, rank)
        new = front.call(node.target, (start, 0, spread, messages, *args_of(node)[4:]), dict(node.kwargs), node)
        node.replace_all_uses_with(front.call(aten.transpose.int, (new, 0, axis), {}, node))
        done += 1
    return done


def _spread_along(index: Any, axis: int) -> fx.Node | None:
    """Return the one-dimensional index that a tensor repeats along all dimensions but one."""
    spreads: list[fx.Node] = []
    while isinstance(index, fx.Node) and index.target in _SPREADS and rank_of(index) > 1:
        spreads.insert(0, index)
        index = args_of(index)[0]
    if not isinstance(index, fx.Node) or rank_of(index) != 1:
        return None
    return index if all(_lies_along(axis, index, spreads, run) for run in range(len(index.meta[SHAPES]))) else None


def _lies_along(axis: int, index: fx.Node, spreads: list[fx.Node], run: int) -> bool:
    """Try out with places in the stead of what an index holds whether it comes to lie along a dimension."""
    places = torch.arange(index.meta[SHAPES][run][0])
    spread = places
    for node in spreads:
        shape = node.meta[SHAPES][run]
        spread = spread.expand(shape) if node.target in _EXPANSIONS else spread.reshape(shape)
    spread = spread.movedim(axis, -1)
    return spread.shape[-1] == len(places) and torch.equal(spread, places.expand_as(spread))


class _Front:
    """Make values with the first dimension and another exchanged, in front of a node."""

    def __init__(self, graph: fx.Graph, before: fx.Node, axis: int) -> None:
        self.graph = graph
        self.before = before
        self.axis = axis

    def of(self, value: fx.Node) -> fx.Node:
        """Return the transposed value, transposing what it is made of where that moves less."""
        gathered = self._gathered(value)
        if gathered is not None:
            source, index = gathered
            rows = self.call(aten.transpose.int, (source, 0, self.axis), {}, source)
            return self.call(aten.index_select.default, (rows, 0, index), {}, value)
        if value.target in _ELEMENTWISE:
            args = fx.node.map_arg(args_of(value), lambda item: self._operand(item, rank_of(value)))
            return self.call(value.target, args, dict(value.kwargs), value)
        return self.call(aten.transpose.int, (value, 0, self.axis), {}, value)

    def _operand(self, item: fx.Node, rank: int) -> fx.Node:
        if rank_of(item) == rank:
            return self.of(item)
        lifted = item
        for _ in range(rank - rank_of(item)):
            lifted = self.call(aten.unsqueeze.default, (lifted, 0), {}, item)
        return self.call(aten.transpose.int, (lifted, 0, self.axis), {}, item)

    def _gathered(self, value: fx.Node) -> tuple[fx.Node, fx.Node] | None:
        """Return the source and index of a gather along the dimension that comes to the front."""
        if value.target is aten.index_select.default:
            source, dim, index = args_of(value)
            return (source, index) if dim % rank_of(source) == self.axis else None
        if value.target is aten.index.Tensor:
            source, indices = args_of(value)
            if len(indices) == self.axis + 1 and indices[:-1] == [None] * self.axis and rank_of(indices[-1]) == 1:
                return (source, indices[-1]) if indices[-1].meta[DTYPE] is torch.int64 else None
        return None

    def created(self, init: fx.Node) -> fx.Node:
        """Return a created tensor with exchanged sizes."""
        args = list(args_of(init))
        if takes_like(init) and len(args) == 1:
            args[0] = self.call(aten.transpose.int, (args[0], 0, self.axis), {}, args[0])
        else:
            sizes = list(args[-1])
            sizes[0], sizes[self.axis] = sizes[self.axis], sizes[0]
            args[-1] = sizes
        return self.call(init.target, tuple(args), dict(init.kwargs), init)

    def index(self, flat: fx.Node, messages: fx.Node, rank: int) -> fx.Node:
        """Spread an index along all dimensions but the first."""
        column = self.call(aten.view.default, (flat, [-1, *[1] * (rank - 1)]), {}, flat)
        return self.call(aten.expand_as.default, (column, messages), {}, messages)

    def call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], module_as: fx.Node) -> fx.Node:
        """Insert a call that belongs to the module of a node."""
        with self.graph.inserting_before(self.before):
            return like(self.graph.call_function(target, args, kwargs), module_as)
