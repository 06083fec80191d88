"""Find message passing in a captured graph: reductions of edge tensors by destination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from gnnexport.program.binding import CREATIONS
from gnnexport.program.graphs import args_of, argument
from gnnexport.program.shapes import DTYPE, SHAPES, rank_of, sizes_of

aten = torch.ops.aten

_REDUCTIONS = {"sum": "sum", "mean": "mean", "amax": "max", "amin": "min", "prod": "prod"}
_STARTS = {"prod": 1.0}
"""What a reduction starts from unless from zero: its neutral element, which rows without messages keep."""
_EXPANSIONS = {aten.expand_as.default, aten.expand.default}
_BROADCASTS = {*_EXPANSIONS, aten.view.default, aten.reshape.default, aten.unsqueeze.default}


@dataclass(frozen=True)
class Reduction:
    """A scatter that reduces `messages` [num_edges, ...] by `dst` [num_edges] into `num_dst` rows.

    `num_dst` is a number or a node, or `None` where the rows are those of the tensor `init` is made like.
    """

    node: fx.Node
    messages: fx.Node
    dst: fx.Node
    num_dst: Any
    reduce: str
    init: fx.Node


def find_reduction(node: fx.Node) -> Reduction | None:
    """Recognise a scatter along the first dimension into zeros, or of factors into ones."""
    if node.target is aten.scatter_add.default or (
        node.target is aten.index_add.default and argument(node, 4, "alpha", 1) == 1
    ):
        init, dim, index, messages = args_of(node)[:4]
        reduce = "sum"
    elif node.target is aten.scatter_reduce.two:
        init, dim, index, messages = args_of(node)[:4]
        reduce = _REDUCTIONS.get(str(argument(node, 4, "reduce")), "")
        if argument(node, 5, "include_self", True) != (reduce == "prod") and reduce != "sum":
            return None
    else:
        return None
    rank = rank_of(node)
    dst = broadcast_source(index)
    if not reduce or not rank or dim % rank or dst is None or not creates(init, _STARTS.get(reduce, 0.0)):
        return None
    if not isinstance(messages, fx.Node) or not _covers(index, messages, node):
        return None
    return Reduction(node, messages, dst, rows_created(init), reduce, init)


def _covers(index: fx.Node, messages: fx.Node, result: fx.Node) -> bool:
    """Tell whether each message is reduced whole: a narrower index would leave part of it out."""
    if not messages.meta.get(DTYPE, torch.bool).is_floating_point:
        return False
    rank = rank_of(result)
    if rank_of(messages) != rank or any(sizes_of(messages, i) != sizes_of(result, i) for i in range(1, rank)):
        return False
    same = index.meta[SHAPES] == messages.meta[SHAPES]
    return same or (rank_of(index) == 1 and sizes_of(index, 0) == sizes_of(messages, 0))


def creates(node: Any, value: float) -> bool:
    """Tell whether a node makes a tensor filled with `value`."""
    return isinstance(node, fx.Node) and CREATIONS.get(node.target) == value


def rows_created(node: Any) -> Any:
    """Return the first size of a created tensor: a node, a number, or `None` when it is taken from another tensor."""
    sizes = args_of(node)[1] if node.target in (aten.new_zeros.default, aten.new_ones.default) else args_of(node)[0]
    return sizes[0] if isinstance(sizes, list | tuple) and sizes else None


def broadcast_source(node: Any) -> fx.Node | None:
    """Look through reshapes and expansions to the one-dimensional index they spread along the first dimension."""
    while isinstance(node, fx.Node) and node.target in _BROADCASTS:
        node = _spread(node)
    return node if isinstance(node, fx.Node) and rank_of(node) == 1 else None


def _spread(node: fx.Node) -> fx.Node | None:
    """Return what a reshape or expansion is made of, if row i of the one is row i of the other."""
    source: Any = args_of(node)[0]
    if sizes_of(source, 0) is None or sizes_of(source, 0) != sizes_of(node, 0):
        return None
    if node.target in _EXPANSIONS and rank_of(source) != rank_of(node):
        return None
    return source  # type: ignore[no-any-return]


def is_count(node: Any, dst: fx.Node) -> bool:
    """Tell whether a node is the number of edges into each destination, at least one, in any shape."""
    while isinstance(node, fx.Node) and node.target in _BROADCASTS:
        node = _spread(node)
    if not isinstance(node, fx.Node) or node.target not in (aten.clamp.default, aten.clamp_min.default):
        return False
    if argument(node, 1, "min") != 1 or argument(node, 2, "max") is not None:
        return False
    counted = args_of(node)[0]
    reduction = find_reduction(counted) if isinstance(counted, fx.Node) else None
    if reduction is None or reduction.reduce != "sum":
        return False
    return reduction.dst is dst and creates(reduction.messages, 1.0)
