"""Remove what is not needed from a functional graph: dead nodes, duplicates, identities."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from gnnexport.program.graphs import args_of, argument, is_random

aten = torch.ops.aten

_STATEFUL = {aten.batch_norm.default}
_END = torch.iinfo(torch.int64).max
_IDENTITIES = {aten.alias.default, aten.clone.default, aten.contiguous.default}


def drop_dead(graph: fx.Graph) -> int:
    """Erase every node that nothing reads; dropout is pure here. Returns how many went."""
    before = len(graph.nodes)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return before - len(graph.nodes)


def drop_identities(graph: fx.Graph) -> int:
    """Erase copies, aliases and slices of everything, which change nothing. Returns how many went.

    Views become reshapes: what a copy was made of may lie in another order in memory, and what is computed of it too.
    """
    erased = 0
    for node in list(graph.nodes):
        if node.target is aten.view.default:
            node.target = aten.reshape.default
        elif node.op == "call_function" and (node.target in _IDENTITIES or _is_whole_slice(node)):
            node.replace_all_uses_with(args_of(node)[0])
            graph.erase_node(node)
            erased += 1
    return erased


def _is_whole_slice(node: fx.Node) -> bool:
    """Tell whether a node is `x[:]`."""
    if node.target is not aten.slice.Tensor:
        return False
    start, end, step = argument(node, 2, "start"), argument(node, 3, "end"), argument(node, 4, "step", 1)
    return start in (None, 0) and end in (None, _END) and step == 1


def merge_duplicates(graph: fx.Graph) -> int:
    """Let equal calls on equal arguments share one node; random ops stay apart. Returns how many went.

    Two batch normalisations share their statistics and are merged only by their own arguments.
    """
    known: dict[Any, fx.Node] = {}
    erased = 0
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr") or node.target in _STATEFUL or is_random(node):
            continue
        key = (node.op, node.target, _hashable(args_of(node)), _hashable(node.kwargs))
        twin = known.setdefault(key, node)
        if twin is not node:
            node.replace_all_uses_with(twin)
            graph.erase_node(node)
            erased += 1
    return erased


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return tuple(sorted((key, _hashable(item)) for key, item in value.items()))
    if isinstance(value, bool | int | float):
        return type(value).__name__, value
    return value
