"""Edges that a layer goes without: a CSR of its own for each layer, in `prepare`, for the one graph it was chosen on.

The body stays what it was but for the structure that it reads, so that training, baking and every target work on fewer
edges, and not on zeros.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from gnnexport.program.dialect import kernels
from gnnexport.program.edge_layers import EdgeLayer, Structure, find_layers, structure_values
from gnnexport.program.graphs import args_of, calls, output_node, parameter_of
from gnnexport.program.program import Program, placeholder_names
from gnnexport.program.shapes import NUMBERS, like, sizes_of
from gnnexport.program.simplify import drop_dead
from gnnexport.program.values import prepared_values

aten = torch.ops.aten
gnn = torch.ops.gnn

_NAME = "kept_edges"


@dataclass(frozen=True)
class Layer:
    """What a layer has left of its edges.

    Args:
        name: of the module.
        kept: edges between different nodes that stay.
        total: such edges in the graph as it was.
        loops: edges of nodes to themselves, which all stay.
    """

    name: str
    kept: int
    total: int
    loops: int = 0


@dataclass(frozen=True)
class Slots:
    """The slots of a structure on one graph.

    Args:
        rowptr: int64 [rows + 1].
        row: int64 [slots], the destination of each slot.
        col: int64 [slots], its source; `None` where the layer reads none.
        edge: int64 [slots], its place among all edges that `prepare` sorts.
        is_loop: bool [slots], its source is its destination.
        one_kind: sources and destinations are the same nodes.
    """

    rowptr: Tensor
    row: Tensor
    col: Tensor | None
    edge: Tensor
    is_loop: Tensor
    one_kind: bool

    @property
    def degree(self) -> Tensor:
        """Slots of each row, int64 [rows]."""
        return self.rowptr.diff()

    def edges(self, kept: Tensor) -> Tensor:
        """Turn what stays of the slots, bool [slots], into what stays of the edges, bool [slots]."""
        return torch.zeros_like(kept).scatter_(0, self.edge, kept)


def kept(program: Program) -> list[Layer]:
    """List what each layer has left of its edges; empty where all have all of them."""
    if not is_pruned(program):
        return []
    program = program.clone().train(False)
    program.annotate()
    assert program.prepare is not None
    found = []
    for layer in find_layers(program):
        if layer.structure.made.target is gnn.keep_slots.default:
            _, _, stays, _, loops = args_of(layer.structure.made)
            mask = parameter_of(program.prepare, stays)
            assert mask is not None
            found.append(Layer(layer.name, int(mask.sum()) - loops, mask.numel() - loops, loops))
    return found


def is_pruned(program: Program) -> bool:
    """Tell whether any layer goes without some edges."""
    return program.prepare is not None and any(calls(program.prepare.graph, gnn.keep_slots.default))


def slots_of(program: Program, inputs: Mapping[str, Tensor], layers: list[EdgeLayer]) -> dict[str, Slots]:
    """Return the slots of every structure that layers read, by the name of its pointers.

    Args:
        program: that the layers are of, with all edges.
        inputs: the graph, by name.
        layers: of the Program.
    """
    assert program.prepare is not None
    sorts = {layer.structure.rowptr: layer.structure.sort for layer in layers}
    sorted_edges = prepared_values(program, inputs, set(sorts.values()))
    values = dict(zip(program.structure_names, program.structure(inputs), strict=True))
    found: dict[str, Slots] = {}
    for layer in sorted(layers, key=lambda item: not item.col):
        structure = layer.structure
        if structure.rowptr not in found:
            rowptr, edge = sorted_edges[sorts[structure.rowptr]]
            row = kernels.rows_of(rowptr)
            col = values[layer.col] if layer.col else None
            is_loop = row == col if col is not None and structure.loops else torch.zeros_like(row, dtype=torch.bool)
            found[structure.rowptr] = Slots(rowptr, row, col, edge, is_loop, structure.loops)
    return found


def freeze(
    program: Program, layers: list[EdgeLayer], slots: Mapping[str, Slots], sets: Mapping[int, Tensor], *,
    apart: bool = False,
) -> Program:  # fmt: skip
    """Return a Program whose layers have some of their edges alone.

    Layers with equal sets of one structure read one and the same CSR, unless they are to be kept apart.

    Args:
        program: split, annotated, with all edges.
        layers: found in it.
        slots: of their structures, on the graph that the sets are of.
        sets: what stays, bool [slots], by the place of a layer; other layers keep all, and are not counted.
        apart: each layer gets a CSR of its own, in the order of the layers.
    """
    program = program.clone()
    made: dict[tuple[str, bytes | int], _Subset] = {}
    for place, stays in sorted(sets.items()):
        structure = layers[place].structure
        whole = slots[structure.rowptr]
        key = structure.rowptr, place if apart else np.packbits(stays.numpy()).tobytes()
        if key not in made:
            made[key] = _Subset(program, structure, whole, stays)
        made[key].take(layers[place])
    _drop_unread(program)
    return program


class _Subset:
    """Some edges of a structure: what `prepare` makes of them, and what the body reads of that.

    Args:
        program: is changed.
        structure: whole.
        slots: of it, on the graph that the choice is of.
        stays: bool [slots].
    """

    def __init__(self, program: Program, structure: Structure, slots: Slots, stays: Tensor) -> None:
        assert program.prepare is not None
        self._prepare, self._body = program.prepare, program.body
        self._structure = structure
        self._anchor: fx.Node | None = None
        self._made = structure_values(program)
        self._copies: dict[fx.Node, fx.Node] = {}
        self._rowptr, self._slots = self._choose(slots, stays)

    def take(self, layer: EdgeLayer) -> None:
        """Let a layer read these edges instead of all."""
        named, shared = set(layer.nodes), set(layer.shared)
        nodes = [node for node in self._body.graph.nodes if node.name in named | shared]
        read = (item for node in nodes for item in node.all_input_nodes)
        self._anchor = next(item for item in read if self._is_of_slots(item))
        for node in nodes:
            if node.name in named:
                node.args, node.kwargs = self._mapped(node, shared)

    def _mapped(self, node: fx.Node, shared: set[str]) -> Any:
        return fx.node.map_arg((node.args, dict(node.kwargs)), lambda item: self._of(item, shared))

    def _choose(self, whole: Slots, stays: Tensor) -> tuple[fx.Node, fx.Node]:
        """Choose the slots in `prepare`; return their pointers and their numbers."""
        graph = self._prepare.graph
        name = _free(_NAME, {name for name, _ in self._prepare.named_buffers()})
        self._prepare.register_buffer(name, whole.edges(stays))
        rowptr: fx.Node = self._made[self._structure.rowptr]
        with graph.inserting_before(output_node(graph)):
            perm = graph.call_function(operator.getitem, (args_of(rowptr)[0], 1))
            sizes = len(whole.degree), int(whole.is_loop.sum())
            given = (rowptr, perm, graph.get_attr(name), *sizes)
            both = graph.call_function(gnn.keep_slots.default, given)
            pointers, slots = (graph.call_function(operator.getitem, (both, part)) for part in (0, 1))
        return like(pointers, rowptr), slots

    def _is_of_slots(self, node: fx.Node) -> bool:
        return node.op == "placeholder" and sizes_of(node, 0) == self._structure.sizes

    def _of(self, node: fx.Node, shared: set[str]) -> fx.Node:
        """Return what takes the place of a value for these edges."""
        if node not in self._copies:
            made = self._replaced(node, shared)
            if made is node:
                return node
            self._copies[node] = made
        return self._copies[node]

    def _replaced(self, node: fx.Node, shared: set[str]) -> fx.Node:
        if node.op == "placeholder" and node.target == self._structure.rowptr:
            return self._read(node, self._rowptr)
        if self._is_of_slots(node):
            graph = self._prepare.graph
            with graph.inserting_before(output_node(graph)):
                args = (self._made[str(node.target)], 0, self._slots)
                return self._read(node, like(graph.call_function(aten.index_select.default, args), node))
        if node.name in shared:
            args, kwargs = self._mapped(node, shared)
            with self._body.graph.inserting_after(node):
                target: Any = node.target
                return like(self._body.graph.call_function(target, args, kwargs), node)
        if node.meta.get(NUMBERS) == self._structure.sizes:
            return self._counted(node, shared)
        return node

    def _counted(self, node: fx.Node, shared: set[str]) -> fx.Node:
        """Count the slots that stay instead of all."""
        assert self._anchor is not None
        anchor = self._of(self._anchor, shared)
        graph = self._body.graph
        first = next(item for item in graph.nodes if item.op != "placeholder")
        with graph.inserting_before(first):
            return like(graph.call_function(aten.sym_size.int, (anchor, 0)), node)

    def _read(self, node: fx.Node, value: fx.Node) -> fx.Node:
        """Hand a value of `prepare` to the body beside the one that it takes the place of."""
        output, graph = output_node(self._prepare.graph), self._body.graph
        output.args = ((*args_of(output)[0], value),)
        name = _free(str(node.target).rpartition("_")[0] or "value", set(placeholder_names(self._body)))
        with graph.inserting_after(graph.find_nodes(op="placeholder")[-1]):
            return like(graph.placeholder(name), node)


def _free(name: str, taken: set[str]) -> str:
    """Return a numbered name that nothing has."""
    return next(free for place in range(len(taken) + 1) if (free := f"{name}_{place}") not in taken)


def _drop_unread(program: Program) -> None:
    """Leave out the structure values that nothing reads any more, in `prepare` and in the body."""
    assert program.prepare is not None
    prepare, body = program.prepare, program.body
    drop_dead(body.graph)
    made = structure_values(program)
    read = []
    for node in body.graph.find_nodes(op="placeholder")[len(program.features) :]:
        if node.users:
            read.append(made[str(node.target)])
        else:
            body.graph.erase_node(node)
    output_node(prepare.graph).args = (tuple(read),)
    drop_dead(prepare.graph)
    for module in (prepare, body):
        module.recompile()
