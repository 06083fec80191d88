"""Recognise composite message passing in a raised graph: softmax by destination, and gather-weigh-reduce."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from gnnexport.program.graphs import calls
from gnnexport.program.shapes import SHAPES, like, rank_of, shape_of, sizes_of

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
    exponential, spread = division.args
    if not _calls(exponential, aten.exp.default) or not _calls(spread, gnn.gather_destination.default):
        return None
    total = spread.args[0]  # type: ignore[union-attr]
    if _calls(total, aten.add.Tensor) and isinstance(total.args[1], float) and abs(total.args[1]) < 1e-6:
        total = total.args[0]
    if not _calls(total, gnn.reduce_edges.default) or total.args[0] is not exponential or total.args[2] != "sum":
        return None
    shifted = exponential.args[0]  # type: ignore[union-attr]
    if not _calls(shifted, aten.sub.Tensor) or not _calls(shifted.args[1], gnn.gather_destination.default):
        return None
    logits, rowptr = shifted.args[0], total.args[1]
    maximum = shifted.args[1].args[0]
    if not _calls(maximum, gnn.reduce_edges.default) or maximum.args[2] != "max" or maximum.args[1] is not rowptr:
        return None
    return (logits, rowptr) if _undetached(maximum.args[0]) is _undetached(logits) else None


def fuse_aggregations(graph: fx.Graph) -> int:
    """Replace gather, optional multiplication by an edge weight, and reduction by one `aggregate`; returns how many."""
    fused = 0
    for reduction in calls(graph, gnn.reduce_edges.default):
        messages, rowptr, reduce = reduction.args
        match = _gathered(messages, rowptr, reduce)
        if match is None:
            continue
        source, col, weight = match
        with graph.inserting_before(reduction):
            if weight is not None:
                weight = _edge_vector(graph, weight)
            new = graph.call_function(gnn.aggregate.default, (source, rowptr, col, weight, reduce))
        reduction.replace_all_uses_with(like(new, reduction))
        fused += 1
    return fused


def _gathered(messages: Any, rowptr: Any, reduce: Any) -> tuple[fx.Node, fx.Node, fx.Node | None] | None:
    """Return source features, columns and weight of `messages`, if that is all they are."""
    if _calls(messages, gnn.gather_source.default) and messages.args[1] is rowptr:
        return messages.args[0], messages.args[2], None
    if not _calls(messages, aten.mul.Tensor) or reduce != "sum":
        return None
    for gather, weight in (messages.args, messages.args[::-1]):
        if not _calls(gather, gnn.gather_source.default) or gather.args[1] is not rowptr:
            continue
        full, narrow = shape_of(messages), shape_of(weight)
        if full is None or narrow is None or len(full) not in (2, 3) or shape_of(gather) != full:
            continue
        one_number_each = len(narrow) == len(full) and narrow[-1] == 1 and narrow[1:-1] == full[1:-1]
        if one_number_each and sizes_of(weight, 0) == sizes_of(messages, 0):
            return gather.args[0], gather.args[2], weight
    return None


def _edge_vector(graph: fx.Graph, weight: fx.Node) -> fx.Node:
    """Drop the last dimension of an edge weight, which is one: [slots, 1] or [slots, heads, 1]."""
    if weight.target is aten.unsqueeze.default and weight.args[1] in (-1, rank_of(weight) - 1):
        return weight.args[0]  # type: ignore[return-value]
    vector = graph.call_function(aten.squeeze.dim, (weight, -1))
    vector.meta = {**weight.meta, SHAPES: tuple(shape[:-1] for shape in weight.meta[SHAPES])}
    return vector


def _calls(node: Any, target: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is target


def _undetached(node: Any) -> Any:
    while _calls(node, aten.detach.default):
        node = node.args[0]
    return node
