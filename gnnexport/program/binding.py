"""Binding times: which values depend on the graph alone, and which on features and weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from gnnexport.program.graphs import args_of, is_random

aten = torch.ops.aten

CREATIONS: dict[Any, float] = {
    aten.new_zeros.default: 0.0,
    aten.zeros_like.default: 0.0,
    aten.zeros.default: 0.0,
    aten.new_ones.default: 1.0,
    aten.ones_like.default: 1.0,
    aten.ones.default: 1.0,
}
"""Ops that read nothing but the sizes and dtype of a tensor, and the value they fill with."""

_SIZE_ONLY = {aten.sym_size.int, aten.sym_numel.default}
_LIKE_SECOND = {aten.expand_as.default, aten.view_as.default, aten.type_as.default}


def structure_nodes(graph: fx.Graph, structure_inputs: Collection[str]) -> set[fx.Node]:
    """Return the nodes whose values are known once the graph is known.

    Sizes count as structure whatever tensor they are taken from: the number of nodes and of edges
    belongs to the graph. A tensor expanded to the width of features does not, for it would be stored
    once per channel. Nor does what dropout makes, for it differs from step to step in training.

    Args:
        graph: a functional graph.
        structure_inputs: names of the inputs that belong to the graph.
    """
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            if node.target in structure_inputs:
                found.add(node)
        elif node.op == "call_function" and _is_structure(node, found):
            found.add(node)
    return found


def _is_structure(node: fx.Node, found: set[fx.Node]) -> bool:
    if node.target in _SIZE_ONLY:
        return True
    if is_random(node):
        return False
    if node.target in CREATIONS:
        read: list[Any] = list(args_of(node)[1:]) if takes_like(node) else list(args_of(node))
        sizes: list[fx.Node] = []
        fx.node.map_arg(read, sizes.append)
        like = args_of(node)[0]
        sized_by_tensor = len(args_of(node)) == 1 and isinstance(like, fx.Node)
        return all(item in found for item in sizes) and (like in found or not sized_by_tensor)
    if node.target in _LIKE_SECOND and args_of(node)[1] not in found:
        return False
    return all(item in found for item in node.all_input_nodes)


def takes_like(node: fx.Node) -> bool:
    """Tell whether a creation takes its dtype, and perhaps its sizes, from its first argument."""
    return node.target not in (aten.zeros.default, aten.ones.default)
