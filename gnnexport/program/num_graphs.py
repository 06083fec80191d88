"""Make the number of graphs in a batch an input: counted from the largest id, an empty last graph would be lost."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from gnnexport.program.graphs import args_of
from gnnexport.program.inputs import NAMES, NUM_GRAPHS, Role

aten = torch.ops.aten

_ITEMS = {aten.item.default, aten._local_scalar_dense.default}
_ADDS = {operator.add, aten.add.Tensor, aten.add.Scalar}
_VIEWS = {aten.view.default, aten.reshape.default, aten.detach.default, aten.alias.default, aten.clone.default}


def name_num_graphs(graph: fx.Graph) -> int:
    """Replace `int(batch.max()) + 1` by the input `num_graphs`; returns how often it stood there."""
    items = [(node, offset) for node in graph.nodes if (offset := _counted(node)) is not None]
    if not items:
        return 0
    given = next((node for node in graph.nodes if node.op == "placeholder" and node.target == NUM_GRAPHS), None)
    last = next(node for node in reversed(graph.nodes) if node.op == "placeholder")
    with graph.inserting_after(last):
        count = given or graph.placeholder(NUM_GRAPHS)
    for item, offset in items:
        for user in list(item.users):
            if offset == 0 and _adds_one(user):
                user.replace_all_uses_with(count)
                graph.erase_node(user)
        if item.users:
            with graph.inserting_before(item):
                instead: Any = count if offset == 1 else graph.call_function(operator.sub, (count, 1))
            item.replace_all_uses_with(instead)
    return len(items)


def _counted(node: fx.Node) -> int | None:
    """Tell whether a node reads the largest graph id as a number: 0 if so, 1 for one more than it, else `None`."""
    if node.target not in _ITEMS:
        return None
    source = args_of(node)[0]
    offset = int(_adds_one(source))
    largest = args_of(source)[0] if offset else source
    return offset if _is_largest_id(largest) else None


def _is_largest_id(node: Any) -> bool:
    """Tell whether a node is the maximum, or the last entry, of the graph ids."""
    if not isinstance(node, fx.Node):
        return False
    if node.target is aten.select.int:
        return args_of(node)[1:] == (0, -1) and _is_batch(args_of(node)[0])
    if node.target is aten.amax.default or node.target is aten.max.default:
        return _is_batch(args_of(node)[0])
    return False


def _is_batch(node: Any) -> bool:
    while isinstance(node, fx.Node) and (node.target in _VIEWS or _starts_from_none(node)):
        node = args_of(node)[0]
        node = node[0] if isinstance(node, list | tuple) else node
    return isinstance(node, fx.Node) and node.op == "placeholder" and NAMES.get(str(node.target)) is Role.GRAPH_IDS


def _starts_from_none(node: fx.Node) -> bool:
    """Tell whether a node puts a -1 behind a tensor, so that the largest of nothing is that."""
    if node.target is not aten.cat.default or len(args_of(node)[0]) != 2:
        return False
    last = args_of(node)[0][1]
    return isinstance(last, fx.Node) and last.target is aten.new_full.default and args_of(last)[1:3] == ([1], -1)


def _adds_one(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in _ADDS and 1 in args_of(node) and not node.kwargs
