"""Find the layers of a Program that pass messages along edges, each with all that it computes for edges.

A layer is what the edges of one sum, or of one attention, go through: gathers, what is computed of them, a softmax,
and the reductions in the end. Leaving an edge out of a layer leaves it out of all of these.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import torch
from torch import fx

from gnnexport.program.graphs import args_of, is_random, module_of, modules_of, output_node
from gnnexport.program.hops import STEPS
from gnnexport.program.inputs import Role, ends_of, role_of
from gnnexport.program.program import Program, placeholder_names
from gnnexport.program.quantised import node_sizes
from gnnexport.program.rowwise import is_row_local
from gnnexport.program.shapes import NUMBERS, SHAPES, sizes_of

aten = torch.ops.aten
gnn = torch.ops.gnn

REDUCTIONS = (gnn.aggregate.default, gnn.reduce_edges.default)
_STRUCTURES = (gnn.csr.default, gnn.keep_slots.default)
_FROM_COL = (gnn.aggregate.default, gnn.gather_source.default)

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Structure:
    """The slots of edges between nodes, as `prepare` makes them and the body reads them.

    Args:
        rowptr: name of the pointers in the body.
        made: what makes them in `prepare`: a sort of edges, or a choice of slots out of one.
        loops: source and destination are nodes of one kind, so that an edge may join a node to itself.
        sizes: number of slots in the runs that shapes were recorded in.
    """

    rowptr: str
    made: fx.Node
    loops: bool
    sizes: Sizes

    @property
    def sort(self) -> fx.Node:
        """The sort of all edges in `prepare`."""
        node = self.made
        while node.target is gnn.keep_slots.default:
            node = args_of(args_of(node)[0])[0]
        return node


@dataclass
class EdgeLayer:
    """What the edges of one structure go through at once.

    Args:
        name: of the module.
        structure: that it reads.
        col: name of its sources in the body; empty where it reads none.
        nodes: names of its ops and of what they compute for edges, in graph order.
        reductions: names of those that sum up, in graph order.
        shared: names of what it reads of edges that features have no part in, and other layers may read, too.
        blocker: why edges cannot be left out; empty where they can.
    """

    name: str
    structure: Structure
    col: str = ""
    nodes: list[str] = field(default_factory=list)
    reductions: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    blocker: str = ""

    def calls(self, body: fx.GraphModule) -> list[fx.Node]:
        """Return its reductions in a body that it was found in, or in a copy."""
        return [node for node in body.graph.nodes if node.name in set(self.reductions)]


def find_layers(program: Program) -> list[EdgeLayer]:
    """List the layers in the order of their last reductions; the Program must be split and annotated."""
    return _Finder(program).layers()


def structure_values(program: Program) -> dict[str, fx.Node]:
    """Return the nodes of `prepare` that make what the body reads, by name."""
    assert program.prepare is not None
    names = placeholder_names(program.body)[len(program.features) :]
    return dict(zip(names, args_of(output_node(program.prepare.graph))[0], strict=True))


def structures_of(program: Program) -> dict[str, Structure]:
    """Return the structures of edges that the body reads, by the name of their pointers."""
    made = structure_values(program)
    found: dict[str, Structure] = {}
    for node in program.body.graph.nodes:
        if node.target not in STEPS:
            continue
        rowptr = args_of(node)[1]
        if rowptr.op != "placeholder" or str(rowptr.target) in found:
            continue
        source = made[str(rowptr.target)]
        is_pointers = source.target is operator.getitem and args_of(source)[1] == 0
        sizes = sizes_of(_of_slots(node), 0)
        if is_pointers and args_of(source)[0].target in _STRUCTURES and sizes is not None:
            structure = Structure(str(rowptr.target), args_of(source)[0], False, sizes)
            edges = _edges(args_of(structure.sort)[0])
            if edges is not None:
                same = len({ends_of(name) for name in edges}) == 1 and len(set(ends_of(min(edges)))) == 1
                found[structure.rowptr] = Structure(structure.rowptr, structure.made, same, sizes)
    return found


def _named(node: fx.Node) -> str:
    """Name the module whose messages an op reduces: PyG reduces in a module of its own inside of it."""
    names = [name for name in modules_of(node) if "aggr_module" not in name.partition(" ")[0].split(".")]
    return names[-1] if names else module_of(node)


def _of_slots(node: fx.Node) -> fx.Node:
    """Return a value that an op of the dialect has for each slot."""
    place = 2 if node.target in (*_FROM_COL, gnn.gather_destination.default) else 0
    found: fx.Node = args_of(node)[place]
    return found


def _edges(destinations: fx.Node) -> set[str] | None:
    """Return the names of the edges that destinations are read off; `None` where they are not those of edges."""
    seen, left, names = set(), [destinations], set()
    while left:
        node = left.pop()
        if node.target is aten.sym_size.int:  # of whatever has a row for each node
            continue
        left += [item for item in node.all_input_nodes if item not in seen]
        seen.update(node.all_input_nodes)
        if node.op == "placeholder":
            names.add(str(node.target))
    roles = {name: role_of(name) for name in names}
    if Role.GRAPH_IDS in roles.values():
        return None
    return {name for name, role in roles.items() if role is Role.EDGE_INDEX} or None


class _Finder:
    """Joins the ops of a body that edges connect."""

    def __init__(self, program: Program) -> None:
        self._graph = program.body.graph
        self._structures = structures_of(program)
        self._sizes = {item.sizes for item in self._structures.values()}
        self._nodes = node_sizes(program)
        self._group: dict[fx.Node, fx.Node] = {}
        self._shared: set[fx.Node] = set()
        self._reasons: dict[fx.Node, str] = {}

    def layers(self) -> list[EdgeLayer]:
        for node in self._graph.nodes:
            if node.op == "call_function":
                self._add(node)
        for node in self._group:
            self._reasons.setdefault(node, self._blocker(node))
        groups: dict[fx.Node, list[fx.Node]] = {}
        for node in self._group:
            groups.setdefault(self._root(node), []).append(node)
        made = [layer for nodes in groups.values() if (layer := self._layer(nodes)) is not None]
        order = {node.name: place for place, node in enumerate(self._graph.nodes)}
        return sorted(made, key=lambda layer: order[layer.reductions[-1]])

    def _step(self, node: fx.Node) -> Structure | None:
        """Return the structure of an op of the dialect over edges."""
        if node.target not in STEPS:
            return None
        return self._structures.get(str(args_of(node)[1].target))

    def _is_of_slots(self, node: fx.Node) -> bool:
        """Tell whether a value, or the parts of one, have a row for each slot."""
        if SHAPES in node.meta:
            return sizes_of(node, 0) in self._sizes
        return node.op == "call_function" and any(
            user.target is operator.getitem and sizes_of(user, 0) in self._sizes for user in node.users
        )

    def _add(self, node: fx.Node) -> None:
        """Join an op with those that made the values of edges that it reads."""
        of_slots = node.target not in REDUCTIONS and self._is_of_slots(node)
        if self._step(node) is None and not of_slots:
            return
        read = [item for item in node.all_input_nodes if self._is_of_slots(item) and item.target not in REDUCTIONS]
        joined = [item for item in read if item in self._group]
        if self._step(node) is None and not joined and not self._reads_nodes(node):
            self._shared.add(node)
            return
        self._group[node] = node
        for item in joined:
            self._group[self._root(item)] = self._root(node)

    def _reads_nodes(self, node: fx.Node) -> bool:
        return any(sizes_of(item, 0) in self._nodes for item in node.all_input_nodes if item.op != "get_attr")

    def _root(self, node: fx.Node) -> fx.Node:
        while self._group[node] is not node:
            node = self._group[node]
        return node

    def _blocker(self, node: fx.Node) -> str:
        """Tell why edges cannot be left out of an op or of what it reads; empty where they can."""
        if node.target not in REDUCTIONS:
            for user in node.users:
                known = user in self._group or user in self._shared or user.target is aten.sym_size.int
                if not known:
                    return f"{module_of(user)} reads all edges at once"
        if self._step(node) is not None:
            return ""
        if self._reads_nodes(node):
            return f"{module_of(node)} takes values of nodes to edges in a way that was not recognised"
        return self._mixes(node)

    def _mixes(self, node: fx.Node) -> str:
        call: fx.Node = args_of(node)[0] if node.target is operator.getitem else node
        read = [item for item in call.all_input_nodes if sizes_of(item, 0) in self._sizes and NUMBERS not in item.meta]
        if SHAPES not in node.meta or (is_random(call) and read) or is_row_local(node, read):
            return ""
        return f"{module_of(node)} computes an edge from other edges"

    def _layer(self, nodes: list[fx.Node]) -> EdgeLayer | None:
        reductions = [node for node in nodes if node.target in REDUCTIONS]
        read = {str(args_of(node)[1].target): item for node in nodes if (item := self._step(node)) is not None}
        if not reductions or not read:
            return None
        layer = EdgeLayer(_named(reductions[-1]), next(iter(read.values())))
        layer.nodes = [node.name for node in nodes]
        layer.reductions = [node.name for node in reductions]
        shared = self._shared_by(nodes)
        layer.shared = [node.name for node in self._graph.nodes if node in shared]
        columns = [args_of(node)[2] for node in nodes if node.target in _FROM_COL]
        layer.col = str(columns[0].target) if columns and columns[0].op == "placeholder" else ""
        reasons = [self._reasons[node] for node in nodes] + [self._mixes(node) for node in shared]
        if len(read) > 1:
            reasons.append(f"{layer.name} reads edges in more than one order")
        if any(item is not columns[0] or item.op != "placeholder" for item in columns):
            reasons.append(f"{layer.name} reads more than one list of neighbours")
        layer.blocker = next(filter(None, reasons), "")
        return layer

    def _shared_by(self, nodes: list[fx.Node]) -> set[fx.Node]:
        """Return what features have no part in of all that some ops read."""
        found: set[fx.Node] = set()
        left = list(nodes)
        while left:
            fresh = [item for item in left.pop().all_input_nodes if item in self._shared and item not in found]
            found.update(fresh)
            left += fresh
        return found
