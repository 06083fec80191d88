"""Number the nodes of a fixed graph anew, so that gathers find rows in the cache."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx

from gnnexport.errors import Problem
from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.program.cost import largest_gathered
from gnnexport.program.data import GraphData
from gnnexport.program.graphs import args_of, calls, output_node, parameter_of, rebuild
from gnnexport.program.inputs import NUM_NODES, Role, role_of, suffix_of
from gnnexport.program.program import Program
from gnnexport.program.quantised import QUANTISERS, quantisers
from gnnexport.program.shapes import like, shape_of
from gnnexport.program.verify import TOLERANCE, largest_error

aten = torch.ops.aten
gnn = torch.ops.gnn

_SORTS = (aten.sort.default, aten.sort.stable, aten.argsort.default, aten.argsort.stable, aten.topk.default)
_MOST_COMPARISONS = 2**32
"""SciPy sorts the neighbours of a node by insertion, in up to the square of their number: this many take seconds."""


@dataclass(frozen=True)
class ReorderNodes(Pass):
    """Number the nodes anew so that rows gathered together lie together; kept only if measured faster.

    Rows of the features are permuted up front and those of the answer back at the end. Edges stay in their order, and
    with them the slots of each destination: every sum over a neighbourhood adds the same numbers in the same order and
    keeps its bits; sums over all nodes, as of a readout, are reordered. Reverse Cuthill-McKee: Cuthill and McKee, 1969,
    reversed as by George, 1971.
    """

    name: ClassVar[str] = "reorder-nodes"
    stage: ClassVar[Stage] = Stage.FINALISE
    measured: ClassVar[bool] = True
    ladder: ClassVar[tuple[str, ...]] = ("order=rcm", "order=degree")
    order: Literal["rcm", "degree"] = "rcm"
    """Reverse Cuthill-McKee puts neighbours close to each other; degree puts the nodes with most edges first."""
    cache_kib: int = 1024
    """Graphs stay as they are where all rows that a layer gathers from take no more: a core's own cache holds them."""

    def __post_init__(self) -> None:
        if self.cache_kib < 0:
            raise ValueError("cache_kib must be at least 0")

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse what has no one graph, has nodes of several kinds, or answers by the numbers of its nodes."""
        refusal = _refusal(program, ctx)
        return [] if refusal is None else [Problem(self.name, *refusal)]

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the Program on renumbered nodes, or the one given where that gains nothing."""
        assert ctx.data is not None
        reason = self._nothing_gained(program, ctx.data)
        if reason is not None:
            ctx.note(f"not tried: {reason}")
            return program
        edge_index = ctx.data.by_role(Role.EDGE_INDEX)
        _, place = gnn.order(edge_index, ctx.data.num_nodes, ctx.data.inputs.get("batch"), self.order)
        before, after = _distance(edge_index), _distance(place[edge_index])
        ctx.note(f"the ends of an edge lie {after:,.0f} rows apart instead of {before:,.0f}, on average")
        return _renumbered(program, self.order)

    def _nothing_gained(self, program: Program, data: GraphData) -> str | None:
        gathered = largest_gathered(program, data.inputs) / 1024
        if gathered <= self.cache_kib:
            return f"rows are gathered from {gathered:.0f} KiB, which caches of {self.cache_kib} KiB hold in any order"
        degrees = torch.bincount(data.by_role(Role.EDGE_INDEX).flatten())
        if self.order == "rcm" and int(degrees.square().sum()) > _MOST_COMPARISONS:
            return f"a node has {int(degrees.max())} edges, and rcm would take too long to sort them: try order=degree"
        return None


def _refusal(program: Program, ctx: PassContext) -> tuple[str, str] | None:
    """Return what is wrong and its mend."""
    drop = "Leave this pass out"
    if program.prepare is None:
        return "the Program is not split yet", "Run raise-messages and split-structure first"
    if ctx.mode != "full":
        return "every request brings another graph, and no order suits them all", f"{drop}, or fix a graph: --mode full"
    if ctx.data is None:
        return "needs the graph whose nodes it is to number", "Give data with --data"
    if any(suffix_of(item.name) for item in program.inputs):
        return "the graph has several kinds of nodes or edges", drop
    if not any(item.role is Role.EDGE_INDEX for item in program.inputs):
        return "the model reads no edges", drop
    if any(True for _ in calls(program.prepare.graph, gnn.order.default)):
        return "the nodes are numbered anew already", "Run this pass once"
    sort = next(calls(program.body.graph, *_SORTS), None)
    if sort is not None:
        return f"{sort.name} sorts values, and equal ones stay in the order of the nodes", drop
    if largest_error(program, _renumbered(program, "degree")) > TOLERANCE:
        return "the model's answers hang on how nodes are numbered", drop
    return None


def _distance(edge_index: Tensor) -> float:
    return float((edge_index[0] - edge_index[1]).abs().double().mean()) if edge_index.numel() else 0.0


def _renumbered(program: Program, kind: str) -> Program:
    """Return a Program that numbers the nodes of whatever graph it is given in an order of this kind."""
    program = program.clone()
    program.annotate()
    assert program.prepare is not None
    prepare = program.prepare.graph
    output = output_node(prepare)
    found = _renumber_structure(prepare, kind)
    read = _renumber_rows(program)
    output.args = ((*args_of(output)[0], *(value for value, wanted in zip(found, read, strict=True) if wanted)),)
    program.prepare = rebuild(program.prepare, prepare)
    program.body = rebuild(program.body, program.body.graph)
    return program


def _renumber_structure(graph: fx.Graph, kind: str) -> tuple[fx.Node, fx.Node]:
    """Let `prepare` work on renumbered nodes; return the node in each place and the place of each node."""
    given = {str(node.target): node for node in graph.nodes if node.op == "placeholder"}
    with graph.inserting_before(_first_op(graph)):
        sizes = (given["edge_index"], given[NUM_NODES], given.get("batch"))
        order = graph.call_function(gnn.order.default, (*sizes, kind))
        nodes, places = (graph.call_function(operator.getitem, (order, part)) for part in (0, 1))
        for name, value in given.items():
            if role_of(name) is Role.EDGE_INDEX:
                _replace(value, graph.call_function(aten.index.Tensor, (places, [value])), but=order)
            elif role_of(name) in (Role.NODE_TYPE, Role.GRAPH_IDS):
                _replace(value, graph.call_function(aten.index_select.default, (value, 0, nodes)), but=order)
    return nodes, places


def _renumber_rows(program: Program) -> tuple[bool, bool]:
    """Let the body read rows in their new places, and put the rows of its answer back.

    It takes the node in each place and the place of each node as its last arguments, as far as it reads them.

    Returns:
        Whether it reads each of these.
    """
    graph = program.body.graph
    of_nodes = [item for item in quantisers(program) if item.of_nodes and item.by == "rows"]
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    first = _first_op(graph)
    with graph.inserting_before(first):
        nodes, places = graph.placeholder("node_in_place"), graph.placeholder("place_of_node")
    for item, value in zip(program.features, placeholders, strict=False):
        if item.role is Role.LABEL_EDGES:
            with graph.inserting_before(first):
                _replace(value, graph.call_function(aten.index.Tensor, (places, [value])))
            continue
        for rows in _narrowest(value):
            of_nodes = [quantiser for quantiser in of_nodes if quantiser.node not in _made_of(rows)]
            with graph.inserting_before(first if rows is value else rows.next):
                _replace(rows, graph.call_function(aten.index_select.default, (rows, 0, nodes)))
    for quantiser in of_nodes:
        _renumber_tables(program.body, quantiser.node, nodes)
    output = output_node(graph)
    if program.level == "node":
        answer: Any = args_of(output)[0]
        with graph.inserting_before(output):
            back = graph.call_function(aten.index_select.default, (answer, 0, places))
        output.args = (like(back, answer),)
    read = bool(nodes.users), bool(places.users)
    for value in (nodes, places):
        if not value.users:
            graph.erase_node(value)
    return read


def _renumber_tables(body: fx.GraphModule, call: fx.Node, nodes: fx.Node) -> None:
    """Let a quantiser take the step and the bits of the node in each place; row i took entry i % n of n."""
    for given in args_of(call)[1:3]:
        table = parameter_of(body, given)
        if table is None or len(table) == 1:
            continue
        with body.graph.inserting_before(call):
            entry = body.graph.call_function(aten.remainder.Scalar, (nodes, len(table)))
            call.replace_input_with(given, body.graph.call_function(aten.index_select.default, (given, 0, entry)))


def _first_op(graph: fx.Graph) -> fx.Node:
    first: fx.Node = next(node for node in graph.nodes if node.op != "placeholder")
    return first


def _replace(value: fx.Node, other: fx.Node, but: fx.Node | None = None) -> None:
    """Let all readers of a value read what was made of it."""
    like(other, value)
    value.replace_all_uses_with(other, delete_user_cb=lambda user: user not in (other, but))


def _narrowest(rows: fx.Node) -> list[fx.Node]:
    """Return what to permute in place of rows: results of the linear maps that read them where these are narrower.

    Quantisers in front of such maps see rows in the order that they are given in.
    """
    readers = [user for user in rows.users if user.target is not aten.sym_size.int]
    if len(readers) == 1 and (readers[0].target is aten.dropout.default or readers[0].target in QUANTISERS):
        behind = _narrowest(readers[0])
        return [rows] if behind == readers else behind
    widths = [shape for reader in readers if (shape := _weight(reader, rows)) is not None]
    narrower = len(widths) == len(readers) and sum(out for out, _ in widths) < max(
        (width for _, width in widths), default=0
    )
    return readers if narrower else [rows]


def _made_of(value: fx.Node) -> set[fx.Node]:
    """Return a value and all that it is computed from."""
    found, left = set(), [value]
    while left:
        node = left.pop()
        left += [item for item in node.all_input_nodes if item not in found]
        found.add(node)
    return found


def _weight(reader: fx.Node, rows: fx.Node) -> tuple[int, ...] | None:
    """Return the shape of the weight that a linear map multiplies rows by; `None` for other readers."""
    if reader.target is not aten.linear.default or args_of(reader)[0] is not rows:
        return None
    shape = shape_of(args_of(reader)[1])
    return shape if shape is not None and len(shape) == 2 else None
