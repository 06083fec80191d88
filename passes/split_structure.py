"""Split a Program by binding time: what the graph decides, and what the features decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from gnnexport.errors import Problem
from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.program.binding import CREATIONS, structure_nodes, takes_like
from gnnexport.program.graphs import args_of, output_node, rebuild
from gnnexport.program.program import EXAMPLE_NODES, Program, example_nodes
from gnnexport.program.shapes import DTYPE, like, rank_of, sizes_of
from gnnexport.program.simplify import drop_dead, merge_duplicates

aten = torch.ops.aten
gnn = torch.ops.gnn

Sizes = tuple[int, ...] | None
Counts = Mapping[Sizes, str]

_STAYS_WITH_READER = {aten.view.default, aten.reshape.default, aten.unsqueeze.default, aten.expand.default,
                      aten.sym_size.int}  # fmt: skip


@dataclass(frozen=True)
class SplitStructure(Pass):
    """Move all that depends on the graph alone into `prepare`, so that inference computes it never again."""

    name: ClassVar[str] = "split-structure"
    stage: ClassVar[Stage] = Stage.SIMPLIFY

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse a Program that is split already."""
        if program.prepare is not None:
            return [Problem(self.name, "the Program is split already", "Run this pass once")]
        return []

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the Program with `prepare` and a `body` that takes features and structure values."""
        program = program.clone()
        program.annotate()
        names = [item.name for item in program.inputs if item.role.is_structure]
        structure = _computable(program.body.graph, structure_nodes(program.body.graph, names), _counts(program))
        boundary = _boundary(program.body.graph, structure)
        prepare = _prepare_graph(program, structure, boundary)
        body = _body_graph(program, structure, boundary)
        program.prepare = rebuild(program.body, prepare)
        program.body = rebuild(program.body, body)
        ctx.note(f"{len(boundary)} structure values leave {len(list(prepare.nodes))} nodes outside the inference")
        return program


def _computable(graph: fx.Graph, structure: set[fx.Node], counts: Counts) -> set[fx.Node]:
    """Leave out what `prepare` cannot compute: sizes that only tensors of features have, and all made of them."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node not in structure:
            continue
        if node.target is aten.sym_size.int and args_of(node)[0] not in structure:
            if _counted(node, counts) is not None or _same_size(node, found) is not None:
                found.add(node)
        else:
            lent = args_of(node)[:1] if node.target in CREATIONS and takes_like(node) else ()
            if all(item in found for item in node.all_input_nodes if item not in lent):
                found.add(node)
    return found


def _counts(program: Program) -> Counts:
    """Return how many nodes of each kind the examples have that shapes were recorded on, by the name of the number."""
    first, second = (example_nodes(program.inputs, num_nodes) for num_nodes in EXAMPLE_NODES)
    return {(count, second[name]): name for name, count in first.items()}


def _counted(size: fx.Node, counts: Counts) -> str | None:
    """Return the name of a size that is a number of nodes."""
    return counts.get(sizes_of(args_of(size)[0], args_of(size)[1]))


def _same_size(size: fx.Node, among: Iterable[fx.Node]) -> tuple[fx.Node, int] | None:
    """Return a tensor and its axis that has the size asked for."""
    wanted = sizes_of(args_of(size)[0], args_of(size)[1])
    for known in among:
        for axis in range(rank_of(known)):
            if sizes_of(known, axis) == wanted:
                return known, axis
    return None


def _boundary(graph: fx.Graph, structure: set[fx.Node]) -> list[fx.Node]:
    """Return the structure values that the body reads, in graph order.

    Views of structure values and tensors filled with a constant are made where they are read: storing
    them would only cost memory. Sizes of the features are read off the features.
    """
    needed: set[fx.Node] = set()
    reading = [node for node in graph.nodes if node not in structure and node.op != "placeholder"]
    while reading:
        for item in reading.pop().all_input_nodes:
            if item not in structure:
                continue
            if _stays(item, structure):
                reading.append(item)
            else:
                needed.add(item)
    return [node for node in graph.nodes if node in needed]


def _stays(node: fx.Node, structure: set[fx.Node]) -> bool:
    if node.target is aten.sym_size.int:
        return args_of(node)[0] not in structure
    return node.target in CREATIONS or node.target in _STAYS_WITH_READER


def _prepare_graph(program: Program, structure: set[fx.Node], boundary: list[fx.Node]) -> fx.Graph:
    graph = fx.Graph()
    values: dict[fx.Node, Any] = {}
    for node in program.body.graph.nodes:
        if node.op == "placeholder" and node in structure:
            values[node] = graph.placeholder(str(node.target))
            values[node].meta = dict(node.meta)
    counts = {sizes: graph.placeholder(name) for sizes, name in _counts(program).items()}
    for node in program.body.graph.nodes:
        if node.op == "placeholder" or node not in structure:
            continue
        values[node] = _copy_structure(graph, node, values, counts)
    graph.output(tuple(values[node] for node in boundary))
    drop_dead(graph)
    return graph


def _copy_structure(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, Any], counts: Mapping[Sizes, fx.Node]) -> Any:
    source = args_of(node)[0] if args_of(node) else None
    if node.target is aten.sym_size.int and source not in values:
        if (sizes := sizes_of(source, args_of(node)[1])) in counts:
            return counts[sizes]
        elsewhere = _same_size(node, values)
        assert elsewhere is not None
        return graph.call_function(aten.sym_size.int, (values[elsewhere[0]], elsewhere[1]))
    if node.target in CREATIONS and takes_like(node) and source not in values:
        return _created(graph, node, values)
    copied = graph.node_copy(node, lambda item: values[item])
    return copied


def _created(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Create without reading the feature tensor that only lent its dtype."""
    dtype = node.meta[DTYPE]
    sizes = fx.node.map_arg(args_of(node)[1], lambda item: values[item])
    made = graph.call_function(aten.full.default, (sizes, CREATIONS[node.target]), {"dtype": dtype})
    return like(made, node)


def _body_graph(program: Program, structure: set[fx.Node], boundary: list[fx.Node]) -> fx.Graph:
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in program.body.graph.nodes:
        if node.op == "placeholder" and node not in structure:
            values[node] = graph.placeholder(str(node.target))
            values[node].meta = dict(node.meta)
    counts: dict[str, int] = {}
    for node in boundary:
        values[node] = graph.placeholder(_structure_name(node, counts))
        values[node].meta = dict(node.meta)
    for node in program.body.graph.nodes:
        if node in values or node.op == "output" or (node in structure and not _stays(node, structure)):
            continue
        if all(item in values for item in node.all_input_nodes):
            values[node] = graph.node_copy(node, lambda item: values[item])
    result: Any = output_node(program.body.graph).args[0]
    graph.output(values[result])
    drop_dead(graph)
    merge_duplicates(graph)
    return graph


def _structure_name(node: fx.Node, counts: dict[str, int]) -> str:
    """Name a structure value by its part in the CSR, as far as its readers tell."""
    kind = "value"
    for user in node.users:
        if user.target in (gnn.aggregate.default, gnn.gather_source.default):
            kind = {1: "rowptr", 2: "col", 3: "weight"}.get(
                list(args_of(user)).index(node) if node in args_of(user) else -1, kind
            )
        elif user.target in (gnn.reduce_edges.default, gnn.edge_softmax.default):
            kind = "rowptr"
        elif user.target is gnn.gather_destination.default:
            kind = {1: "rowptr", 2: "row"}.get(list(args_of(user)).index(node), kind)
    counts[kind] = counts.get(kind, -1) + 1
    return f"{kind}_{counts[kind]}"
