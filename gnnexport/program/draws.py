"""Reductions of which some neighbours, drawn at random, stand for all."""

from __future__ import annotations

import torch
from torch import fx

from gnnexport.program.graphs import args_of, module_of

gnn = torch.ops.gnn

_FAIR = ("mean", "max", "min")
"""Reductions that stay what they are over some of the neighbours."""


def unfair(node: fx.Node, scaled: set[str]) -> str | None:
    """Tell why a reduction of drawn neighbours is no fair one of all; enters weights that are to be scaled."""
    if node.target is gnn.aggregate.default:
        reduce, weight = args_of(node)[4], args_of(node)[3]
    elif node.target is gnn.reduce_edges.default:
        reduce, weight = args_of(node)[2], args_of(node)[0]
    else:
        return None
    if reduce in _FAIR or (isinstance(weight, fx.Node) and _attention(weight)):
        return None
    if reduce == "sum" and isinstance(weight, fx.Node) and _only_weighs(weight):
        scaled.add(str(weight.target))
        return None
    return f"{module_of(node)} takes the {reduce} over its neighbours, which is another one over some of them"


def _only_weighs(value: fx.Node) -> bool:
    """Tell whether a value of the graph is read as the weight of sums alone."""
    return value.op == "placeholder" and all(
        user.target is gnn.aggregate.default and args_of(user)[4] == "sum" and value not in args_of(user)[:3]
        for user in value.users
    )


def _attention(value: fx.Node) -> bool:
    """Tell whether values of slots come out of a softmax, which adds up to one however many neighbours there are."""
    if value.target is gnn.edge_softmax.default:
        return True
    steps = (gnn.aggregate.default, gnn.reduce_edges.default)
    return value.target not in steps and any(_attention(item) for item in value.all_input_nodes)
