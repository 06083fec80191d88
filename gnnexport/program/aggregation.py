"""Recognise composite message passing in a raised graph: softmax by destination, and gather-weigh-reduce."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from gnnexport.program.graphs import args_of, calls
from gnnexport.program.shapes import DTYPE, SHAPES, like, rank_of, shape_of, sizes_of

aten = torch.ops.aten
gnn = torch.ops.gnn


def fuse_softmax(graph: fx.Graph) -> int:
    """Replace the captured softmax over the edges of a destination by `edge_softmax`; returns how many.

    Matches `e / (sum(e) + eps)[row]` with `e = exp(l - max(l)[row])`. The guard against an empty sum
    is dropped: after subtracting the maximum the sum is at least one.
    """
    fused = 0
    for division in calls(graph, aten.div.Tensor):
        match = _softmax(division)
        if match is None:
            continue
        logits, rowptr = match
        with graph.inserting_before(division):
            new = graph.call_function(gnn.edge_softmax.default, (logits, rowptr))
        division.replace_all_uses_with(like(new, division))
        fused += 1
    return fused


def _softmax(division: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    exponential, spread = args_of(division)
    if division.kwargs or not _calls(exponential, aten.exp.default):
        return None
    if not _calls(spread, gnn.gather_destination.default):
        return None
    total, spread_by = args_of(spread)[:2]
    if _calls(total, aten.add.Tensor) and isinstance(args_of(total)[1], float) and abs(args_of(total)[1]) < 1e-6:
        total = args_of(total)[0]
    if (
        not _calls(total, gnn.reduce_edges.default)
        or args_of(total)[0] is not exponential
        or args_of(total)[1] is not spread_by
        or args_of(total)[2] != "sum"
    ):
        return None
    shifted = args_of(exponential)[0]
    if not _calls(shifted, aten.sub.Tensor) or not _calls(args_of(shifted)[1], gnn.gather_destination.default):
        return None
    logits, rowptr = args_of(shifted)[0], args_of(total)[1]
    maximum, shifted_by = args_of(args_of(shifted)[1])[:2]
    if (
        not _calls(maximum, gnn.reduce_edges.default)
        or args_of(maximum)[2] != "max"
        or args_of(maximum)[1] is not rowptr
        or shifted_by is not rowptr
        or shifted.kwargs
    ):
        return None
    return (logits, rowptr) if _undetached(args_of(maximum)[0]) is _undetached(logits) else None


def fuse_aggregations(graph: fx.Graph) -> int:
    """Replace gather, optional multiplication by an edge weight, and reduction by one `aggregate`; returns how many."""
    fused = 0
    for reduction in calls(graph, gnn.reduce_edges.default):
        messages, rowptr, reduce = args_of(reduction)
        match = _gathered(messages, rowptr, reduce)
        if match is None:
            continue
        source, col, weight = match
        with graph.inserting_before(reduction):
            if weight is not None and _serves_all_heads(weight, messages):
                new = _aggregate_flat(graph, reduction, match)
            else:
                vector = None if weight is None else _edge_vector(graph, weight)
                new = graph.call_function(gnn.aggregate.default, (source, rowptr, col, vector, reduce))
        reduction.replace_all_uses_with(like(new, reduction))
        fused += 1
    return fused


_Gathered = tuple[fx.Node, fx.Node, fx.Node | None]


def _gathered(messages: Any, rowptr: Any, reduce: Any) -> _Gathered | None:
    """Return source features, columns and weight of `messages`, if that is all they are."""
    if _calls(messages, gnn.gather_source.default) and args_of(messages)[1] is rowptr:
        return args_of(messages)[0], args_of(messages)[2], None
    if not _calls(messages, aten.mul.Tensor) or reduce != "sum":
        return None
    for gather, weight in (args_of(messages), args_of(messages)[::-1]):
        if not _calls(gather, gnn.gather_source.default) or args_of(gather)[1] is not rowptr:
            continue
        full, narrow = shape_of(messages), shape_of(weight)
        if full is None or narrow is None or shape_of(gather) != full or len(narrow) != len(full):
            continue
        if weight.meta.get(DTYPE) != gather.meta.get(DTYPE):  # a mask is no weight
            continue
        of_each_head = len(full) in (2, 3) and narrow[-1] == 1 and narrow[1:-1] == full[1:-1]
        if (of_each_head or _serves_all_heads(weight, messages)) and sizes_of(weight, 0) == sizes_of(messages, 0):
            return args_of(gather)[0], args_of(gather)[2], weight
    return None


def _serves_all_heads(weight: fx.Node, messages: fx.Node) -> bool:
    """Tell whether there is one number for an edge while messages have several dimensions that are not one."""
    full, narrow = shape_of(messages) or (), shape_of(weight) or ()
    return len(full) > 2 and all(size == 1 for size in narrow[1:]) and narrow[1:-1] != full[1:-1]


def _aggregate_flat(graph: fx.Graph, reduction: fx.Node, match: _Gathered) -> fx.Node:
    """Aggregate rows of a matrix, weighed by one number for each edge, and shape the result."""
    source, col, weight = match
    _, rowptr, reduce = args_of(reduction)
    tail = list(source.meta[SHAPES][0][1:])

    def shaped(value: fx.Node, sizes: list[int]) -> fx.Node:
        new = like(graph.call_function(aten.reshape.default, (value, [-1, *sizes])), value)
        new.meta[SHAPES] = tuple((shape[0], *sizes) for shape in value.meta[SHAPES])
        return new

    assert weight is not None
    matrix = shaped(source, [math.prod(tail)])
    total = graph.call_function(gnn.aggregate.default, (matrix, rowptr, col, shaped(weight, []), reduce))
    like(total, matrix).meta[SHAPES] = tuple((shape[0], math.prod(tail)) for shape in reduction.meta[SHAPES])
    return shaped(total, tail)


def _edge_vector(graph: fx.Graph, weight: fx.Node) -> fx.Node:
    """Drop the last dimension of an edge weight, which is one: [slots, 1] or [slots, heads, 1]."""
    if weight.target is aten.unsqueeze.default and args_of(weight)[1] in (-1, rank_of(weight) - 1):
        unsqueezed: fx.Node = args_of(weight)[0]
        return unsqueezed
    vector = graph.call_function(aten.squeeze.dim, (weight, -1))
    vector.meta = {**weight.meta, SHAPES: tuple(shape[:-1] for shape in weight.meta[SHAPES])}
    return vector


def _calls(node: Any, target: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is target


def _undetached(node: Any) -> Any:
    while _calls(node, aten.detach.default):
        node = args_of(node)[0]
    return node
