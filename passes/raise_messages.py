"""Raise captured gathers and scatters to the gnn dialect."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.program.aggregation import fuse_aggregations, fuse_softmax
from gnnexport.program.axes import bring_rows_to_front
from gnnexport.program.binding import structure_nodes
from gnnexport.program.graphs import args_of, calls, rebuild
from gnnexport.program.matrices import written_out
from gnnexport.program.messages import Reduction, find_reduction, is_count
from gnnexport.program.program import Program
from gnnexport.program.shapes import like, sizes_of
from gnnexport.program.simplify import drop_dead, merge_duplicates
from gnnexport.program.slots import Csr, SlotOrder

aten = torch.ops.aten
gnn = torch.ops.gnn


@dataclass(frozen=True)
class RaiseMessages(Pass):
    """Turn gather, compute and scatter into aggregation over CSR; what cannot be raised stays as it is."""

    name: ClassVar[str] = "raise-messages"
    stage: ClassVar[Stage] = Stage.SIMPLIFY

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Raise every scatter of features; needs the Program as captured, before the split."""
        program = program.clone()
        graph = program.body.graph
        merge_duplicates(graph)
        program.annotate()
        if bring_rows_to_front(graph):
            program.annotate()
        structure = structure_nodes(graph, [item.name for item in program.inputs if item.role.is_structure])
        csrs: dict[Any, tuple[Csr, SlotOrder]] = {}
        raised = 0
        for reduction in _reductions(graph, structure):
            raised += 1
            rows = _rows(graph, reduction, structure)
            key = (reduction.dst, rows)
            if key not in csrs:
                csr = _build_csr(graph, reduction, rows, structure)
                csrs[key] = csr, SlotOrder(graph, csr, structure)
            _replace(graph, reduction, *csrs[key])
        drop_dead(graph)
        fuse_softmax(graph)
        fuse_aggregations(graph)
        drop_dead(graph)
        merge_duplicates(graph)
        left = [node for node in graph.nodes if _is_scatter(node) and node not in structure]
        ctx.note(f"raised {raised} reductions over {len(csrs)} structures" + (f", left {len(left)}" if left else ""))
        if matrices := written_out(graph):
            ctx.note(f"writes out {len(matrices)} adjacency matrices: memory grows with the square of a graph's nodes")
        program.body = rebuild(program.body, graph)
        return program


def _is_scatter(node: fx.Node) -> bool:
    return "scatter" in str(node.target) or "index_add" in str(node.target)


def _reductions(graph: fx.Graph, structure: set[fx.Node]) -> Iterator[Reduction]:
    for node in list(graph.nodes):
        found = find_reduction(node) if node not in structure else None
        if found is None or found.dst not in structure:
            continue
        if not isinstance(found.num_dst, fx.Node) or found.num_dst in structure:
            yield found


def _rows(graph: fx.Graph, reduction: Reduction, structure: set[fx.Node]) -> Any:
    """Return the number of destinations, reading it off a tensor where only that has it."""
    if reduction.num_dst is not None:
        return reduction.num_dst
    like_it = args_of(reduction.init)[0]
    for node in calls(graph, aten.sym_size.int):
        if node < reduction.node and args_of(node)[1] == 0 and sizes_of(args_of(node)[0], 0) == sizes_of(like_it, 0):
            return node
    with graph.inserting_after(like_it):
        size = graph.call_function(aten.sym_size.int, (like_it, 0))
    structure.add(size)
    return size


def _build_csr(graph: fx.Graph, reduction: Reduction, rows: Any, structure: set[fx.Node]) -> Csr:
    """Insert the nodes that sort the edges by destination."""
    inputs = [item for item in (reduction.dst, rows) if isinstance(item, fx.Node)]
    with graph.inserting_after(max(inputs)):
        both = graph.call_function(gnn.csr.default, (reduction.dst, rows))
    with graph.inserting_after(both):
        perm = graph.call_function(operator.getitem, (both, 1))
        rowptr = graph.call_function(operator.getitem, (both, 0))
    with graph.inserting_after(perm):
        row = graph.call_function(aten.index_select.default, (reduction.dst, 0, perm))
    like(perm, reduction.dst)
    like(row, reduction.dst)
    structure.update((both, perm, rowptr, row))
    return Csr(reduction.dst, sizes_of(reduction.node, 0), rowptr, perm, row)


def _replace(graph: fx.Graph, reduction: Reduction, csr: Csr, order: SlotOrder) -> None:
    messages = order.permute(reduction.messages)
    with graph.inserting_before(reduction.node):
        new = graph.call_function(gnn.reduce_edges.default, (messages, csr.rowptr, reduction.reduce))
    reduction.node.replace_all_uses_with(like(new, reduction.node))
    for user in list(new.users):
        divides = reduction.reduce == "sum" and user.target is aten.div.Tensor and args_of(user)[0] is new
        divides = divides and sizes_of(args_of(user)[1], 0) == sizes_of(new, 0)
        if divides and is_count(args_of(user)[1], reduction.dst):
            _make_mean(graph, user, new)


def _make_mean(graph: fx.Graph, division: fx.Node, total: fx.Node) -> None:
    with graph.inserting_before(division):
        mean = graph.call_function(gnn.reduce_edges.default, (*args_of(total)[:2], "mean"))
    division.replace_all_uses_with(like(mean, division))
