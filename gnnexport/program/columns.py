"""Let the maps that read the raw features of the farthest nodes read a selection of columns, which can then shrink."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx

from gnnexport.program.graphs import args_of, calls, parameter_of, rebuild
from gnnexport.program.inputs import Role
from gnnexport.program.program import Program
from gnnexport.program.shapes import rank_of, shape_of
from gnnexport.program.simplify import drop_dead, merge_duplicates

aten = torch.ops.aten
gnn = torch.ops.gnn

_HOPS = {gnn.aggregate.default, gnn.gather_source.default}
"""Ops that read rows of other nodes: of their first argument."""


_LINEAR_STEPS = _HOPS | {
    gnn.reduce_edges.default, gnn.gather_destination.default, aten.reshape.default, aten.view.default,
    aten.add.Tensor, aten.mul.Tensor, aten.sum.dim_IntList, aten.mean.dim,
}  # fmt: skip
"""What a layer does to the result of its linear map before its activation."""


def is_read_from_afar(makers: Iterable[fx.Node], hops: Mapping[fx.Node, int]) -> bool:
    """Tell whether other nodes read what layers make: whether their rows are gathered after the activation.

    Args:
        makers: linear maps of the layers, or selections of columns.
        hops: to the output.
    """
    reached = list(makers)
    if any(node.target is aten.index_select.default for node in reached):
        return True
    for node in reached:
        for user in node.users:
            if user.target in _LINEAR_STEPS:
                reached += [user] if user not in reached else []
            elif hops[user] > 0:
                return True
    return False


def hops_to_output(graph: fx.Graph) -> dict[fx.Node, int]:
    """Return how many times the rows of each value are gathered by other nodes at most, on the way to the output."""
    found: dict[fx.Node, int] = {}
    for node in reversed(graph.nodes):
        found[node] = max((found[user] + _is_hop(user, node) for user in node.users), default=0)
    return found


def _is_hop(node: fx.Node, source: fx.Node) -> bool:
    return node.target in _HOPS and args_of(node)[0] is source


def open_columns(program: Program) -> None:
    """Put a selection of all columns between each kind of raw features and the maps that read most nodes' rows of it.

    Those of nodes k hops away count in an inference for a few nodes: there are the more of them the farther they are.
    Maps that read nearer rows only, such as the self branch of the first layer, keep reading all columns. What stands
    between the features and such a map, their aggregation for one, is repeated on the selection.
    """
    program.annotate()
    body = program.body
    names = {item.name for item in program.inputs if item.role is Role.NODE_FEATURES}
    for features in [node for node in body.graph.nodes if node.op == "placeholder" and str(node.target) in names]:
        if rank_of(features) == 2 and not any(map(_is_selection, features.users)):
            _open(body, features)
    drop_dead(body.graph)
    body.recompile()


def _is_selection(node: fx.Node) -> bool:
    return node.target is aten.index_select.default and args_of(node)[1] % rank_of(args_of(node)[0]) == 1


def _open(body: fx.GraphModule, features: fx.Node) -> None:
    remaining = hops_to_output(body.graph)
    before = _reached(features)
    depth = {
        node: before[args_of(node)[0]] + remaining[node]
        for node in calls(body.graph, aten.linear.default)
        if args_of(node)[0] in before
    }
    farthest = max(depth.values(), default=0)
    if farthest == 0:
        return
    width = (shape_of(features) or ())[1]
    name = next(free for i in range(len(body.graph.nodes)) if not hasattr(body, free := f"columns_{i}"))
    body.register_buffer(name, torch.arange(width))
    graph = body.graph
    with graph.inserting_after(_last_placeholder(graph)):
        index = graph.get_attr(name)
    with graph.inserting_after(index):
        selection = graph.call_function(aten.index_select.default, (features, 1, index))
    copies = {features: selection}
    for reader in [node for node, hops in depth.items() if hops == farthest]:
        reader.update_arg(0, _copied(args_of(reader)[0], before, copies, reader))


def _reached(features: fx.Node) -> dict[fx.Node, int]:
    """Return the values made of features without a linear map, with the hops that lie behind them at most."""
    found = {features: 0}
    for node in features.graph.nodes:
        behind = [found[item] + _is_hop(node, item) for item in node.all_input_nodes if item in found]
        if behind and node.op == "call_function" and node.target is not aten.linear.default and rank_of(node) >= 1:
            found[node] = max(behind)
    return found


def _copied(node: fx.Node, reached: Any, copies: dict[fx.Node, fx.Node], before: fx.Node) -> fx.Node:
    """Repeat a value on the selection; what is made of the selection already is used again."""
    if node not in copies:
        for item in node.all_input_nodes:
            if item in reached:
                _copied(item, reached, copies, before)
        with before.graph.inserting_before(before):
            copies[node] = before.graph.node_copy(node, lambda item: copies.get(item, item))
    return copies[node]


def _last_placeholder(graph: fx.Graph) -> fx.Node:
    placeholders: list[fx.Node] = [node for node in graph.nodes if node.op == "placeholder"]
    return placeholders[-1]


def close_columns(program: Program) -> None:
    """Remove selections of all columns."""
    body = program.body
    for node in filter(_is_selection, calls(body.graph, aten.index_select.default)):
        index = parameter_of(body, args_of(node)[2])
        width = (shape_of(args_of(node)[0]) or (0,))[-1]
        if index is not None and torch.equal(index, torch.arange(width)):
            node.replace_all_uses_with(args_of(node)[0])
    drop_dead(body.graph)
    merge_duplicates(body.graph)
    program.body = rebuild(body, body.graph)
