"""How far each value of a body sees: on how many message-passing steps its rows depend."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from gnnexport.errors import UnsupportedError
from gnnexport.program.graphs import args_of, module_of, output_node
from gnnexport.program.program import EXAMPLE_NODES, Program
from gnnexport.program.rowwise import is_row_local
from gnnexport.program.shapes import NUMBERS, rank_of, shape_of, sizes_of

aten = torch.ops.aten
gnn = torch.ops.gnn

_MEND = "Use --mode full or graphs"

STEPS: dict[Any, Mapping[str, int]] = {
    gnn.aggregate.default: {"rowptr": 1, "col": 2},
    gnn.gather_source.default: {"rowptr": 1, "col": 2},
    gnn.gather_destination.default: {"rowptr": 1, "row": 2},
    gnn.reduce_edges.default: {"rowptr": 1},
    gnn.edge_softmax.default: {"rowptr": 1},
}
"""The ops of the dialect, and where their arguments hold the structure."""

_TO_ROWS = (gnn.aggregate.default, gnn.reduce_edges.default)
_FROM_SOURCE = (gnn.aggregate.default, gnn.gather_source.default)


class Space(enum.Enum):
    """What the first dimension of a value counts."""

    ROWS = "rows"
    SLOTS = "slots"
    NONE = "none"
    """Parameters, numbers, and what is made of them alone."""


@dataclass(frozen=True)
class Read:
    """A value of rows that a stage reads.

    Args:
        value: of the body.
        stage: the depth of what is computed from it.
        source: it is read of the neighbours, not of the target itself.
    """

    value: fx.Node
    stage: int
    source: bool


@dataclass(frozen=True)
class Hops:
    """What is known of each value of a body.

    Args:
        space: what its first dimension counts.
        depth: on how many hops a row or a slot depends; 0 for what the features of the node alone decide.
        structure: placeholders of the structure.
        features: the placeholder of the features.
        steps: the ops of the dialect, in graph order.
    """

    space: Mapping[fx.Node, Space]
    depth: Mapping[fx.Node, int]
    structure: Mapping[str, Space]
    features: fx.Node
    steps: tuple[fx.Node, ...]

    @property
    def structure_values(self) -> dict[str, Space]:
        """Values of slots and nodes that the graph decides, besides pointers and neighbours, by name."""
        parts = {str(value.target) for node in self.steps for value in self.parts(node).values()}
        return {name: space for name, space in self.structure.items() if name not in parts and space is not Space.NONE}

    def parts(self, node: fx.Node) -> dict[str, fx.Node]:
        """Return the structure that an op of the dialect reads, by part."""
        return {part: args_of(node)[place] for part, place in STEPS[node.target].items()}

    def is_features(self, node: fx.Node) -> bool:
        """Tell the placeholder of the features."""
        return node is self.features

    def is_made_by_step(self, node: fx.Node) -> bool:
        """Tell a value of rows that comes out of a reduction."""
        return node.target in _TO_ROWS

    def source_read(self, node: fx.Node) -> fx.Node | None:
        """Return the rows that an op reads through `col`, if it does."""
        found: fx.Node | None = args_of(node)[0] if node.target in _FROM_SOURCE else None
        return found

    def reads(self) -> Iterator[Read]:
        """Return every value of rows that another value of rows is computed from, at once or through slots."""
        for node, space in self.space.items():
            if space is Space.ROWS and node.op == "call_function":
                yield from self._reads(node, self.depth[node])

    def _reads(self, node: fx.Node, stage: int) -> Iterator[Read]:
        source = self.source_read(node)
        for item in node.all_input_nodes:
            if item is source or self.space[item] is Space.ROWS:
                yield Read(item, stage, item is source)
            elif self.space[item] is Space.SLOTS and item.op == "call_function":
                yield from self._reads(item, stage)


def find_hops(program: Program) -> Hops:
    """Find space and depth of each value of a split and annotated Program.

    Raises:
        UnsupportedError: an op whose rows depend on other rows, as a norm over all nodes; names the module.
    """
    body = program.body
    features = program.features[0].name
    finder = _Finder(body)
    for node in body.graph.nodes:
        finder.add(node)
    placeholders = {str(node.target): node for node in body.graph.find_nodes(op="placeholder")}
    structure = {name: finder.space[node] for name, node in placeholders.items() if name != features}
    steps = tuple(node for node in body.graph.nodes if node.target in STEPS)
    return Hops(finder.space, finder.depth, structure, placeholders[features], steps)


class _Finder:
    """Go through a body in order."""

    def __init__(self, body: fx.GraphModule) -> None:
        self.space: dict[fx.Node, Space] = {}
        self.depth: dict[fx.Node, int] = {}
        col = [args_of(node)[2] for node in body.graph.nodes if node.target in _FROM_SOURCE]
        row = [args_of(node)[2] for node in body.graph.nodes if node.target is gnn.gather_destination.default]
        self._slots = {sizes_of(node, 0) for node in (*col, *row)}
        self._structure = {args_of(n)[place] for n in body.graph.nodes for place in STEPS.get(n.target, {}).values()}
        self._last = output_node(body.graph)

    def add(self, node: fx.Node) -> None:
        """Find space and depth of one value; those it reads are known."""
        if node is self._last:
            return
        space, depth = self._step(node) if node.target in STEPS else self._plain(node)
        self.space[node], self.depth[node] = space, depth

    def _step(self, node: fx.Node) -> tuple[Space, int]:
        given = [args_of(node)[0]]
        if node.target is gnn.aggregate.default and isinstance(args_of(node)[3], fx.Node):
            given.append(args_of(node)[3])
        depth = max(self.depth[item] for item in given)
        if node.target in _FROM_SOURCE:
            depth = max(depth, self.depth[given[0]] + 1)
        return (Space.ROWS if node.target in _TO_ROWS else Space.SLOTS), max(depth, 1)

    def _plain(self, node: fx.Node) -> tuple[Space, int]:
        if node.op in ("placeholder", "get_attr"):
            return self._given(node), 0
        # An item of a call with several results is judged by what the call reads.
        call: fx.Node = args_of(node)[0] if node.target is operator.getitem else node
        read = [item for item in call.all_input_nodes if self.space[item] is not Space.NONE]
        if node.target is aten.sym_size.int or NUMBERS in node.meta:
            return Space.NONE, 0
        spaces = {self.space[item] for item in read}
        if not spaces:
            return (Space.ROWS if sizes_of(node, 0) == EXAMPLE_NODES else Space.NONE), 0
        trusted = shape_of(node) is None or node.target is aten.dropout.default  # which does nothing out of training
        if len(spaces) > 1 or not (trusted or is_row_local(node, read)):
            what = f"{module_of(node)} computes a row from all rows ({str(node.target).removesuffix('.default')})"
            raise UnsupportedError.at("mode batched", what, _MEND)
        return spaces.pop(), max(self.depth[item] for item in read)

    def _given(self, node: fx.Node) -> Space:
        if node.op == "get_attr" or rank_of(node) == 0 or node in self._structure:
            return Space.NONE
        size = sizes_of(node, 0)
        if size == EXAMPLE_NODES:
            return Space.ROWS
        if size in self._slots:
            return Space.SLOTS
        what = f"'{node.target}' is neither a value of each node nor of each edge"
        raise UnsupportedError.at("mode batched", what, _MEND)
