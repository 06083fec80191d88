"""Leave edges out by a rule at run time, for graphs that nobody knows yet: small messages count for nothing.

The body computes the norms of rows once for each node, the norm of a message from that and its weight, and multiplies
the weights of small ones by zero. Means are over the edges that stay, and attention adds up to one over them. A layer
leaves out, besides, what the layers before it left out, as with a set of edges of its own (`edge_sets`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from gnnexport.errors import UnsupportedError
from gnnexport.program.edge_layers import EdgeLayer, structure_values
from gnnexport.program.graphs import args_of, output_node, parameter_of
from gnnexport.program.program import Program, placeholder_names
from gnnexport.program.shapes import rank_of

aten = torch.ops.aten
gnn = torch.ops.gnn

_NAME = "edge_threshold"
_LEAST = 1e-30
"""Stands in for the sum of attention over no edge."""
_SMALLEST, _LARGEST = 1e-18, 1e18
"""Thresholds between these can be compared to: requests compute norms in float32, by their squares."""


@dataclass(frozen=True)
class Rule:
    """A layer's rule.

    Args:
        threshold: norm of a message below which it counts for nothing.
    """

    threshold: float


def rules(program: Program) -> list[Rule]:
    """List the rules of a Program, in the order of its layers."""
    found = [node for node in program.body.graph.find_nodes(op="get_attr") if str(node.target).startswith(_NAME)]
    found.sort(key=lambda node: int(str(node.target)[len(_NAME) + 1 :]))
    values = [parameter_of(program.body, node) for node in found]
    return [Rule(float(value)) for value in values if value is not None]


def is_decision(node: fx.Node) -> bool:
    """Tell whether a node of a body compares the norms of messages to a threshold."""
    if node.target is not aten.lt.Tensor:
        return False
    threshold = args_of(node)[1]
    return isinstance(threshold, fx.Node) and str(threshold.target).startswith(_NAME)


def no_rule(layer: EdgeLayer, body: fx.GraphModule) -> str:
    """Tell why a layer cannot have a rule; empty where it can."""
    calls = layer.calls(body)
    softmax = _softmaxes(layer, body)
    if len(calls) > 1 or len(softmax) > 1:
        return f"{layer.name} sums over its edges more than once"
    if not layer.structure.loops:
        return f"{layer.name} passes messages between several kinds of nodes"
    (call,) = calls
    if softmax and (call.target is not gnn.aggregate.default or _attention(call) is not softmax[0]):
        return f"{layer.name} computes messages of its attention"
    if call.target is gnn.aggregate.default and args_of(call)[4] == "mean" and rank_of(call) != 2:
        return f"{layer.name} takes means of tables"
    return ""


def _softmaxes(layer: EdgeLayer, body: fx.GraphModule) -> list[fx.Node]:
    named = set(layer.nodes)
    return [node for node in body.graph.nodes if node.target is gnn.edge_softmax.default and node.name in named]


def _attention(call: fx.Node) -> Any:
    """Return what the weights of a sum are before dropout."""
    weight = args_of(call)[3]
    while isinstance(weight, fx.Node) and weight.target is aten.dropout.default:
        weight = args_of(weight)[0]
    return weight


def add_rules(program: Program, layers: list[EdgeLayer], thresholds: Mapping[int, float]) -> Program:
    """Return a Program whose layers leave out messages below their thresholds.

    Args:
        program: split, annotated.
        layers: found in it.
        thresholds: by the place of a layer that can have a rule; other layers keep all edges.

    Raises:
        UnsupportedError: two layers over the same edges run side by side, or squares of a threshold are no float32
            numbers.
    """
    program = program.clone()
    gone: dict[str, fx.Node] = {}
    structure = _Structure(program)
    for place, threshold in sorted(thresholds.items()):
        layer = layers[place]
        if 0 < threshold < _SMALLEST or _LARGEST < threshold < math.inf:
            what = f"{layer.name} would compare norms to {threshold:.1g} at run time, whose square is no float32 number"
            raise UnsupportedError.at("sparsify-edges", what, "Scale the features, or use rule=frozen in mode full")
        made = _Ruled(program, layer, structure, gone.get(layer.structure.rowptr))
        gone[layer.structure.rowptr] = made.apply(threshold)
    assert program.prepare is not None
    for module in (program.prepare, program.body):
        module.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        module.recompile()
    return program


class _Structure:
    """What rules read of the graph besides what layers do, made in `prepare` when first asked for."""

    def __init__(self, program: Program) -> None:
        assert program.prepare is not None
        self._program, self._prepare = program, program.prepare
        self._made = structure_values(program)
        self._known: dict[tuple[str, str], fx.Node] = {}

    def row(self, layer: EdgeLayer) -> fx.Node:
        """Return the destination of each slot, int64 [slots]."""
        return self._read(layer, "row", self._row)

    def apart(self, layer: EdgeLayer) -> fx.Node:
        """Tell of each slot whether it joins different nodes, bool [slots]."""

        def made(layer: EdgeLayer) -> fx.Node:
            ends = self._made[layer.col], self._row(layer)
            return self._prepare.graph.call_function(aten.ne.Tensor, ends)

        return self._read(layer, "value", made)

    def _row(self, layer: EdgeLayer) -> fx.Node:
        graph = self._prepare.graph
        sort: fx.Node = args_of(self._made[layer.structure.rowptr])[0]
        perm = graph.call_function(operator.getitem, (sort, 1))
        return graph.call_function(aten.index_select.default, (args_of(sort)[0], 0, perm))

    def _read(self, layer: EdgeLayer, kind: str, make: Any) -> fx.Node:
        key = layer.structure.rowptr, kind
        if key not in self._known:
            output, body = output_node(self._prepare.graph), self._program.body.graph
            with self._prepare.graph.inserting_before(output):
                value = make(layer)
            output.args = ((*args_of(output)[0], value),)
            taken = set(placeholder_names(self._program.body))
            name = next(free for place in range(len(taken) + 1) if (free := f"{kind}_{place}") not in taken)
            with body.inserting_after(body.find_nodes(op="placeholder")[-1]):
                self._known[key] = body.placeholder(name)
        return self._known[key]


class _Ruled:
    """Puts the rule of one layer into a body."""

    def __init__(self, program: Program, layer: EdgeLayer, structure: _Structure, before: fx.Node | None) -> None:
        self._body, self._graph, self._layer, self._structure = program.body, program.body.graph, layer, structure
        nodes = {node.name: node for node in self._graph.nodes}
        placeholders = {str(node.target): node for node in self._graph.find_nodes(op="placeholder")}
        self._rowptr, self._col = placeholders[layer.structure.rowptr], placeholders[layer.col]
        self._call: fx.Node = nodes[layer.reductions[0]]
        softmax = _softmaxes(layer, program.body)
        self._softmax = softmax[0] if softmax else None
        self._before = before

    def apply(self, threshold: float) -> fx.Node:
        """Let the layer leave small messages out; return what it leaves out, bool [slots]."""
        anchor = self._call if self._softmax is None else self._softmax.next
        if self._before is not None and not self._before < anchor:
            what = f"{self._layer.name} runs beside another layer over the same edges"
            raise UnsupportedError.at("sparsify-edges", what, "Drop this pass")
        number = sum(name.startswith(_NAME) for name, _ in self._body.named_buffers())
        self._body.register_buffer(f"{_NAME}_{number}", torch.tensor(threshold))
        apart = self._structure.apart(self._layer)
        with self._graph.inserting_before(anchor):
            small = self._do(aten.lt.Tensor, self._score(), self._graph.get_attr(f"{_NAME}_{number}"))
            gone = self._do(aten.logical_and.default, small, apart)
            if self._before is not None:
                gone = self._do(aten.logical_or.default, gone, self._before)
            stays = self._do(aten.to.dtype, self._do(aten.logical_not.default, gone), torch.float32)
            self._leave_out(stays)
        return gone

    def _do(self, target: Any, *args: Any) -> fx.Node:
        return self._graph.call_function(target, args)

    @property
    def _aggregates(self) -> bool:
        return self._call.target is gnn.aggregate.default

    @property
    def _reduce(self) -> str:
        return str(args_of(self._call)[4 if self._aggregates else 2])

    def _score(self) -> fx.Node:
        """Compute the norms of messages, [slots]."""
        rows = args_of(self._call)[0]
        rank = rank_of(rows)
        if not self._aggregates:
            squares = self._do(aten.sum.dim_IntList, self._do(aten.mul.Tensor, rows, rows), list(range(1, rank)))
            norms = self._do(aten.unsqueeze.default, self._do(aten.sqrt.default, squares), 1)
        else:
            squares = self._do(aten.sum.dim_IntList, self._do(aten.mul.Tensor, rows, rows), [rank - 1], rank == 2)
            norms = self._do(aten.sqrt.default, squares)
            norms = self._do(gnn.gather_source.default, norms, self._rowptr, self._col)
            weight = args_of(self._call)[3] if self._softmax is None else self._candidates()
            if weight is not None:
                norms = self._do(aten.mul.Tensor, norms, self._column(weight))
        if self._reduce == "mean":
            norms = self._do(aten.div.Tensor, norms, self._of_destination(self._do(aten.ones_like.default, norms)))
        squares = self._do(aten.sum.dim_IntList, self._do(aten.mul.Tensor, norms, norms), [1])
        return self._do(aten.sqrt.default, squares)

    def _column(self, weight: fx.Node) -> fx.Node:
        return weight if rank_of(weight) == 2 else self._do(aten.unsqueeze.default, weight, 1)

    def _of_destination(self, values: fx.Node) -> fx.Node:
        """Sum over the edges of each node, and take the sums to the edges."""
        total = self._do(gnn.reduce_edges.default, values, self._rowptr, "sum")
        return self._do(gnn.gather_destination.default, total, self._rowptr, self._structure.row(self._layer))

    def _leave_out(self, stays: fx.Node) -> None:
        """Let the layer reduce over the messages that stay."""
        if self._softmax is not None:
            self._attend(stays)
        elif self._aggregates:
            self._weigh(stays)
        else:
            rows = args_of(self._call)[0]
            mask = self._do(aten.view.default, stays, [-1, *[1] * (rank_of(rows) - 1)])
            left = self._do(aten.mul.Tensor, rows, mask)
            self._reduced(self._do(gnn.reduce_edges.default, left, self._rowptr, "sum"), stays)

    def _weigh(self, stays: fx.Node) -> None:
        rows, _, _, weight, _ = args_of(self._call)
        column = self._do(aten.unsqueeze.default, stays, 1)
        if weight is not None:
            new = self._do(aten.mul.Tensor, weight, column if rank_of(weight) == 2 else stays)
        elif rank_of(rows) == 3:
            heads = self._do(aten.sum.dim_IntList, self._do(aten.mul.Tensor, rows, rows), [2])
            each = self._do(aten.ones_like.default, self._do(gnn.gather_source.default, heads, self._rowptr, self._col))
            new = self._do(aten.mul.Tensor, each, column)
        else:
            new = stays
        self._reduced(self._do(gnn.aggregate.default, rows, self._rowptr, self._col, new, "sum"), stays)

    def _reduced(self, total: fx.Node, stays: fx.Node) -> None:
        """Put a sum in the place of the reduction, divided by the edges that stay where that is a mean."""
        if self._reduce == "mean":
            count = self._do(gnn.reduce_edges.default, self._do(aten.unsqueeze.default, stays, 1), self._rowptr, "sum")
            count = self._do(aten.clamp_min.default, count, 1.0)
            if rank_of(self._call) > 2:
                count = self._do(aten.view.default, count, [-1, *[1] * (rank_of(self._call) - 1)])
            total = self._do(aten.div.Tensor, total, count)
        total.meta = dict(self._call.meta)
        self._call.replace_all_uses_with(total)

    def _attend(self, stays: fx.Node) -> None:
        """Share the attention out among the edges that stay."""
        softmax = self._softmax
        assert softmax is not None
        shared = self._shared(softmax, stays)
        of_rule = self._between(softmax, shared)
        softmax.replace_all_uses_with(shared, delete_user_cb=lambda user: user not in of_rule)

    def _shared(self, softmax: fx.Node, stays: fx.Node) -> fx.Node:
        """Scale what stays of attention so that it adds up to one."""
        column = self._do(aten.unsqueeze.default, stays, 1) if rank_of(softmax) == 2 else stays
        left = self._do(aten.mul.Tensor, softmax, column)
        total = self._do(aten.clamp_min.default, self._of_destination(left), _LEAST)
        shared = self._do(aten.div.Tensor, left, total)
        shared.meta = dict(softmax.meta)
        return shared

    def _candidates(self) -> fx.Node:
        """Return the attention among the edges that the layer before left."""
        softmax = self._softmax
        assert softmax is not None
        if self._before is None:
            return softmax
        left = self._do(aten.to.dtype, self._do(aten.logical_not.default, self._before), torch.float32)
        return self._shared(softmax, left)

    def _between(self, softmax: fx.Node, shared: fx.Node) -> set[fx.Node]:
        """Return what stands between a softmax and what takes its place: the rule itself reads it as it was."""
        found, node = set(), softmax.next
        while node is not shared:
            found.add(node)
            node = node.next
        return found
