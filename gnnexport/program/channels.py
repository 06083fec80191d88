"""Channel groups: the parameters that must shrink together when a hidden channel goes.

A channel of a hidden value is made by rows of the weights before it and read by columns of the weights
after it; what stands between (activations, norms, biases, sums over neighbours) acts on each channel by
itself. A group is one such hidden value with all that makes and reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from gnnexport.program.graphs import args_of, argument, module_of, parameter_of, replace_tensor
from gnnexport.program.program import Program
from gnnexport.program.shapes import rank_of, shape_of

aten = torch.ops.aten
gnn = torch.ops.gnn

_PER_CHANNEL = {
    aten.relu.default, aten.leaky_relu.default, aten.elu.default, aten.gelu.default, aten.silu.default,
    aten.tanh.default, aten.sigmoid.default, aten.hardtanh.default, aten.softplus.default, aten.exp.default,
    aten.neg.default, aten.abs.default, aten.sqrt.default, aten.dropout.default, aten.detach.default,
    aten.clamp.default, aten.clamp_min.default, aten.pow.Tensor_Scalar, aten.add.Tensor, aten.sub.Tensor,
    aten.mul.Tensor, aten.div.Tensor, aten.batch_norm.default, aten.layer_norm.default, gnn.aggregate.default,
    gnn.gather_source.default, gnn.gather_destination.default, gnn.reduce_edges.default, aten.index_select.default,
}  # fmt: skip
"""Ops whose result's channel c depends on channel c of their arguments; norms over channels are counted in,
for they have a result of the same meaning with fewer channels."""

_WHOLE = {aten.mean.default, aten.sum.default, aten.std.default, aten.std.correction, aten.var.default,
          aten.var.correction}  # fmt: skip


@dataclass(eq=False)
class Group:
    """A hidden value's channels.

    Args:
        width: number of channels.
        producers: linear maps whose outputs are the channels.
        consumers: linear maps that read them.
        vectors: parameters and buffers with one entry per channel.
        norms: layer normalisations whose size is written into the graph.
        blockers: why it cannot shrink; empty when it can.
    """

    width: int
    producers: list[fx.Node] = field(default_factory=list)
    consumers: list[fx.Node] = field(default_factory=list)
    vectors: list[fx.Node] = field(default_factory=list)
    norms: list[fx.Node] = field(default_factory=list)
    blockers: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        makers = ", ".join(dict.fromkeys(module_of(node) for node in self.producers)) or "the input"
        readers = ", ".join(dict.fromkeys(module_of(node) for node in self.consumers)) or "the output"
        return f"{self.width} channels from {makers} to {readers}"


class _Sets:
    """Disjoint sets of values whose channels are the same."""

    def __init__(self) -> None:
        self.parent: dict[fx.Node, fx.Node] = {}

    def find(self, node: fx.Node) -> fx.Node:
        self.parent.setdefault(node, node)
        while self.parent[node] is not node:
            node = self.parent[node]
        return node

    def join(self, one: fx.Node, other: fx.Node) -> None:
        self.parent[self.find(other)] = self.find(one)


def find_groups(program: Program) -> list[Group]:
    """Return the groups of a split Program, in graph order of their first producer."""
    program.annotate()
    body = program.body
    sets = _Sets()
    for node in body.graph.nodes:
        if node.op == "call_function" and node.target in _PER_CHANNEL:
            for item in _channel_arguments(node):
                sets.join(node, item)
    groups: dict[fx.Node, Group] = {}

    def group_of(node: fx.Node) -> Group:
        return groups.setdefault(sets.find(node), Group((shape_of(node) or (0,))[-1]))

    for node in body.graph.nodes:
        _register(body, node, group_of)
    found = [group for group in groups.values() if group.producers and group.consumers]
    return sorted(found, key=lambda group: min(group.producers))


def _channel_arguments(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the arguments that have the same channels as the result."""
    width = (shape_of(node) or (0,))[-1]
    if rank_of(node) != 2:
        return
    if _selects_channels(node):
        return
    given = args_of(node)[:1] if node.target in _STRUCTURED else args_of(node)
    for item in given:
        shape = shape_of(item)
        if isinstance(item, fx.Node) and shape and shape[-1] == width and width > 1:
            yield item


def _selects_channels(node: fx.Node) -> bool:
    return node.target is aten.index_select.default and args_of(node)[1] % rank_of(args_of(node)[0]) != 0


_STRUCTURED = {gnn.aggregate.default, gnn.gather_source.default, gnn.gather_destination.default,
               gnn.reduce_edges.default, aten.index_select.default}  # fmt: skip


def _register(body: fx.GraphModule, node: fx.Node, group_of: Any) -> None:
    """Enter a node into the groups of the values it makes and reads."""
    if node.op == "placeholder" and rank_of(node) == 2:
        group_of(node).blockers.append(f"they are the input '{node.target}'")
    elif node.op == "output":
        group_of(args_of(node)[0]).blockers.append("they are the model's output")
    elif node.op == "get_attr" and rank_of(node) == 1 and (shape_of(node) or (0,))[0] > 1:
        group_of(node).vectors.append(node)
        readers = {user for user in node.users if user.target is aten.linear.default}
        if (readers and len(node.users) > 1) or _readers_of_tensor(body, node) > len(node.users):
            group_of(node).blockers.append(f"{node.target} is shared")
    elif node.op == "get_attr" and rank_of(node) >= 2:
        if any(user.target is not aten.linear.default or args_of(user)[1] is not node for user in node.users):
            group_of(node).blockers.append(f"the parameter {node.target} takes part in them")
    elif node.target is aten.linear.default:
        _register_linear(body, node, group_of)
    elif node.op == "call_function" and not (node.target in _WHOLE and rank_of(node) == 0):
        per_channel = node.target in _PER_CHANNEL and rank_of(node) == 2 and not _selects_channels(node)
        for item in () if per_channel else node.all_input_nodes:
            if rank_of(item) >= 1:
                what = f"{module_of(node)} reads them by {str(node.target).removesuffix('.default')}"
                group_of(item).blockers.append(what)
        if not per_channel and rank_of(node) >= 1:
            group_of(node).blockers.append(f"{module_of(node)} makes them by {node.target}")
        if node.target is aten.layer_norm.default:
            group_of(node).norms.append(node)


def _register_linear(body: fx.GraphModule, node: fx.Node, group_of: Any) -> None:
    weight, bias = args_of(node)[1], argument(node, 2, "bias")
    made, read = group_of(node), group_of(args_of(node)[0])
    made.producers.append(node)
    read.consumers.append(node)
    if parameter_of(body, weight) is None or _readers_of_tensor(body, weight) > 1:
        for group in (made, read):
            group.blockers.append(f"the weight of {module_of(node)} is computed or shared")
    if rank_of(node) != 2:
        made.blockers.append(f"{module_of(node)} makes them for more than one thing at each node")
    if bias is not None and parameter_of(body, bias) is None:
        made.blockers.append(f"the bias of {module_of(node)} is computed")
    elif bias is not None:
        made.vectors.extend(group_of(bias).vectors)
        made.blockers.extend(group_of(bias).blockers)


def _readers_of_tensor(body: fx.GraphModule, node: fx.Node) -> int:
    """Count the readers of a parameter under any of its names: tied weights have several."""
    value = parameter_of(body, node)
    return sum(len(other.users) for other in body.graph.nodes if parameter_of(body, other) is value)


def shrink(body: fx.GraphModule, group: Group, kept: torch.Tensor) -> None:
    """Keep only some channels of a group: rows of what makes them, entries of vectors, columns of what reads them.

    Args:
        body: changed in place.
        group: found in this body.
        kept: int64 [channels to keep], ascending.
    """
    for node in group.producers:
        _select(body, args_of(node)[1], kept, 0)
    for vector in dict.fromkeys(group.vectors):
        _select(body, vector, kept, 0)
    for node in group.consumers:
        _select(body, args_of(node)[1], kept, 1)
    for norm in group.norms:
        norm.update_arg(1, [len(kept)])
    body.recompile()


def _select(body: fx.GraphModule, node: Any, kept: torch.Tensor, axis: int) -> None:
    value = parameter_of(body, node)
    assert value is not None
    replace_tensor(body, node, value.index_select(axis, kept))
