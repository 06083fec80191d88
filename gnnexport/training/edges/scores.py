"""What tells edges apart: the norms of their messages, and baselines that look at the graph alone.

Unifews (ICML 2025) leaves out a message T[u,v]·P[v] whose norm is small. The norm is that of the row times the weight,
so that messages are never made: work grows with nodes times channels and with edges, not with their product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.program.edge_layers import EdgeLayer
from gnnexport.program.edge_sets import Slots
from gnnexport.program.graphs import args_of

gnn = torch.ops.gnn

_SUMS = ("sum", "mean")

_LEAST, _MOST = 1e-12, 1e12
"""Norms between these have squares that float32 holds, also when they are divided by squares of degrees."""


def no_norm(layer: EdgeLayer, body: fx.GraphModule) -> str:
    """Tell why norms say nothing of a layer's messages; empty where they do."""
    others = sorted({reduce for node in layer.calls(body) if (reduce := _reduce(node)) not in _SUMS})
    return f"{layer.name} takes the {' and the '.join(others)} of messages, which a small one may be" if others else ""


def looked_at(layer: EdgeLayer, body: fx.GraphModule) -> dict[fx.Node, Callable[[Any], Tensor]]:
    """Return what norms of a layer's messages are made of: for values of a body, what makes of them what is needed."""
    looks: dict[fx.Node, Callable[[Any], Tensor]] = {}
    for node in layer.calls(body):
        if node.target is gnn.aggregate.default:
            rows, _, _, weight, _ = args_of(node)
            looks[rows] = _row_norms
            if isinstance(weight, fx.Node):
                looks[weight] = _itself
        else:
            looks[args_of(node)[0]] = _whole_norms
    return looks


def message_norms(calls: Sequence[fx.Node], seen: Mapping[fx.Node, Tensor], candidates: Tensor, slots: Slots) -> Tensor:
    """Return the norm of what each edge of a layer adds to its destination, [candidates].

    It is float32, or float64 where squares of some are no float32 numbers.

    In a mean a message counts by its share, one over the in-degree in the whole graph; in attention by its weight among
    the edges that the layer has.

    Args:
        calls: reductions of the layer, which has the candidates as its edges, by sum and mean alone.
        seen: of `looked_at`.
        candidates: int64, slots of the whole structure, ascending.
        slots: of the whole structure.
    """
    norms = _norms(calls, seen, candidates, slots)
    unsure = _beyond(norms).nonzero().flatten()
    if not len(unsure):
        return norms
    of_edges = {_of_edges(node) for node in calls}
    wide = {key: (value[unsure] if key in of_edges else value).double() for key, value in seen.items()}
    return norms.double().index_copy(0, unsure, _norms(calls, wide, candidates[unsure], slots))


def _norms(calls: Sequence[fx.Node], seen: Mapping[fx.Node, Tensor], candidates: Tensor, slots: Slots) -> Tensor:
    squares = (_squares(node, seen, candidates, slots) for node in calls)
    return sum(squares, torch.zeros(len(candidates))).sqrt()


def _of_edges(call: fx.Node) -> fx.Node:
    """Return what a reduction has for each edge: a weight, if any, or the messages."""
    value: fx.Node = args_of(call)[3 if call.target is gnn.aggregate.default else 0]
    return value


def _beyond(norms: Tensor) -> Tensor:
    """Tell where a norm is so small or so large that it may come from squares that float32 does not hold, bool."""
    return ~((norms > _LEAST) & (norms < _MOST))


def _squares(node: fx.Node, seen: Mapping[fx.Node, Tensor], candidates: Tensor, slots: Slots) -> Tensor:
    """Return the squared norms of the messages of one reduction."""
    norms = seen[args_of(node)[0]]
    if node.target is gnn.aggregate.default:
        assert slots.col is not None
        norms = norms.index_select(0, slots.col.index_select(0, candidates))
        weight = args_of(node)[3]
        if isinstance(weight, fx.Node):
            given = seen[weight]
            norms = norms * (given if given.dim() == norms.dim() else given.unsqueeze(-1)).abs()
    squares = norms.square()
    squares = squares if squares.dim() == 1 else squares.sum(1)
    if _reduce(node) == "mean":
        degree = slots.degree.index_select(0, slots.row.index_select(0, candidates))
        squares = squares / degree.square()
    return squares


def _reduce(node: fx.Node) -> str:
    return str(args_of(node)[4 if node.target is gnn.aggregate.default else 2])


def _row_norms(x: Tensor) -> Tensor:
    """Return the norm of each row, [rows], or of each head of a row, [rows, heads]."""
    if x.dim() == 1:
        return x.abs()
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
    unsure = _beyond(norms)
    norms[unsure] = torch.linalg.vector_norm(x[unsure], dim=-1, dtype=torch.float64).to(norms.dtype)
    return norms


def _whole_norms(x: Tensor) -> Tensor:
    return x.abs() if x.dim() == 1 else _row_norms(x.flatten(1))


def _itself(value: Tensor) -> Tensor:
    return value


def resistances(slots: Slots) -> Tensor:
    """Return an estimate of the effective resistance of each edge, float32 [slots]: 1/d_u + 1/d_v.

    Within a constant of the true one where the graph is an expander (Lovász, 1996; von Luxburg et al., JMLR 2014).
    Degrees count what comes in and what goes out; between nodes of two kinds, each end does one of the two.
    """
    assert slots.col is not None
    count = max(len(slots.degree), int(slots.col.max()) + 1 if slots.col.numel() else 0)
    leaving, coming = (torch.bincount(ends, minlength=count) for ends in (slots.col, slots.row))
    if slots.one_kind:
        leaving = coming = leaving + coming
    return 1 / leaving[slots.col].float() + 1 / coming[slots.row].float()


def drawn(weights: Tensor, seed: int) -> Tensor:
    """Return keys of which the largest are a draw without replacement, each with a chance by its weight.

    Efraimidis and Spirakis, 2006.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(len(weights), generator=generator, dtype=torch.float64).clamp(min=1e-300)
    return uniform.log() / weights.double()
