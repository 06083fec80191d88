"""Renumber nodes and slots once for the whole model, in the order in which the tables give them.

Then aggregation needs no permutation of its own: features are permuted once on their way in, where they are
narrowest, and the output once on its way out. Edge values lie in the order in which the tables read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.operators import Operator, constant, dialect_nodes
from gnnexport.targets.onnx.pieces import Ints, cut
from gnnexport.targets.onnx.roles import NODES, NotRowWiseError, Role, Roles, infer
from gnnexport.targets.onnx.tape import Constants, sizes


@dataclass(frozen=True)
class Numbering:
    """A structure in the new order of the nodes.

    Args:
        rowptr: its pointers.
        slots: old slot of each new slot.
        position: row of each new slot in edge values.
    """

    rowptr: Ints
    slots: Ints
    position: Ints

    @property
    def rows(self) -> Ints:
        """Old slot of each row of edge values."""
        return self.slots[inverse(self.position)]


@dataclass(frozen=True)
class Frame:
    """How one operator of the dialect sees the new numbers.

    Args:
        numbering: of its structure.
        order: old number of each node in the new order.
        x_is_new: its node features come in the new order.
    """

    numbering: Numbering
    order: Ints
    x_is_new: bool = True

    def apply(self, op: Operator) -> Operator:
        """Return the operator with its structure renumbered."""
        slots = self.numbering.slots
        framed = replace(
            op,
            rowptr=self.numbering.rowptr,
            static_weight=None if op.static_weight is None else op.static_weight[slots],
            position=self.numbering.position,
        )
        if op.col is not None:
            col = op.col[slots]
            return replace(framed, col=inverse(self.order)[col] if self.x_is_new else col)
        if op.kind == schemas.GATHER_DESTINATION and not self.x_is_new:
            return replace(framed, col=self.order[framed.rows_of_slots])
        return framed


def natural(op: Operator) -> Operator:
    """Return a reduction as it is where the whole model has the order of its tables."""
    assert op.rowptr is not None
    order = cut(op.rowptr).order
    return Frame(_number(op.rowptr, order), order, x_is_new=op.kind == schemas.AGGREGATE and _square(op)).apply(op)


def _square(op: Operator) -> bool:
    assert op.rowptr is not None
    return sizes(op.x)[0] == len(op.rowptr) - 1


def renumber(graph: ir.Graph, constants: Constants, note: Callable[[str], None]) -> dict[ir.Node, Frame]:
    """Renumber the rows of a model in place, outside the dialect's own operators.

    Returns:
        The frame of each operator of the dialect, to be applied when it is lowered; empty where an operator of the
        model may mix rows, so that each aggregation has to restore the order itself.
    """
    try:
        roles = infer(graph)
    except NotRowWiseError as error:
        note(f"nodes are permuted around every aggregation: {error}")
        return {}
    return _Renumbering(graph, constants, roles).run()


def inverse(order: Ints) -> Ints:
    """Return the permutation that undoes one."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return back


class _Renumbering:
    """The state of one renumbering: what has the new order so far."""

    def __init__(self, graph: ir.Graph, constants: Constants, roles: Roles) -> None:
        self.graph = graph
        self.constants = constants
        self.roles = roles
        pointers = {value: constant(value) for value in _structures(graph, roles)}
        self.order = cut(pointers[_heaviest(graph, roles)]).order
        self.number = inverse(self.order)
        self.numberings = {value: _number(rowptr, self.order) for value, rowptr in pointers.items()}
        self.shared = sum(_reads_nodes(node) for node in dialect_nodes(graph)) > 1
        self.new: set[ir.Value] = set()
        self.converted: dict[ir.Value, ir.Value] = {}

    def run(self) -> dict[ir.Node, Frame]:
        """Rewrite the graph; return the frames."""
        mixed = self._mixed()
        first = next(iter(self.graph))
        features = [value for value in self.graph.inputs if value.uses() and value in self.roles.of]
        if mixed and sum(map(_width, features)) <= sum(map(_width, mixed)):
            for value in features:
                users = list(value.uses())
                inside = self._convert(value, first)
                for user, position in users:
                    user.replace_input_with(position, inside)
        frames = {}
        for node in list(self.graph):
            if node.domain == schemas.DOMAIN:
                frames[node] = self._frame(node)
            else:
                self._rewrite(node)
        self._restore_outputs()
        return frames

    def _mixed(self) -> list[ir.Value]:
        """Return the values in the old order that would have to be converted.

        They meet values in the new order, or are aggregated over tables that have to serve both.
        """
        new: set[ir.Value] = set()
        mixed: dict[ir.Value, None] = {}
        for node in self.graph:
            rows = [value for value in node.inputs if self.roles.of.get(value) == NODES]  # type: ignore[arg-type]
            dialect = node.domain == schemas.DOMAIN
            if dialect:
                new.update(value for value in node.outputs if self.roles.of[value] == NODES)
            if self.shared if dialect else any(value in new for value in rows):
                mixed.update((value, None) for value in rows if value is not None and value not in new)
                new.update(() if dialect else node.outputs)
        return list(mixed)

    def _frame(self, node: ir.Node) -> Frame:
        x = node.inputs[0]
        assert x is not None
        out = node.outputs[0]
        reads_edges = node.op_type == schemas.REDUCE_EDGES
        rowptr = node.inputs[1] if self.roles.of[out] == NODES else self.roles.of[out].rowptr
        assert rowptr is not None
        if reads_edges and (node, 0) in self.roles.constants:
            self._place_constant(node, 0, self.numberings[rowptr].rows)
        if self.shared and self.roles.of.get(x) == NODES and x not in self.new:
            x = self._convert(x, node)
            node.replace_input_with(0, x)
        if self.roles.of[out] == NODES:
            self.new.add(out)
        return Frame(self.numberings[rowptr], self.order, x in self.new)

    def _rewrite(self, node: ir.Node) -> None:
        """Bring the operands of a standard operator into one order."""
        if node in self.roles.lookups:
            self._look_up(node)
            return
        role = next((self.roles.of[value] for value in node.inputs if value in self.roles.of), None)
        if role is None:
            return
        if role != NODES:
            self._place_constants(node, self._rows(role))
            return
        if not any(value in self.new for value in node.inputs):
            return
        for position, value in enumerate(node.inputs):
            if value is not None and self.roles.of.get(value) == NODES and value not in self.new:
                node.replace_input_with(position, self._convert(value, node))
        self._place_constants(node, self.order)
        self.new.update(node.outputs)

    def _look_up(self, node: ir.Node) -> None:
        """Let a node that picks rows by their old numbers pick them by the new ones."""
        data, index = node.inputs
        assert index is not None
        if data in self.new:
            numbers = self.constants.add(self.number)
            renumbered = self._gather(numbers, index, f"{node.outputs[0].name}_renumbered_index")
            renumbered.outputs[0].shape, renumbered.outputs[0].type = index.shape, numbers.type
            self.graph.insert_before(node, renumbered)
            node.replace_input_with(1, renumbered.outputs[0])

    def _rows(self, role: Role) -> Ints:
        assert role.rowptr is not None
        return self.numberings[role.rowptr].rows

    def _place_constants(self, node: ir.Node, rows: Ints) -> None:
        for position in range(len(node.inputs)):
            if (node, position) in self.roles.constants:
                self._place_constant(node, position, rows)

    def _place_constant(self, node: ir.Node, position: int, rows: Ints) -> None:
        value = node.inputs[position]
        assert value is not None
        assert value.const_value is not None
        node.replace_input_with(position, self.constants.add(value.const_value.numpy()[rows]))

    def _convert(self, value: ir.Value, before: ir.Node) -> ir.Value:
        """Return a value in the new order, converted once, before its first use."""
        if value not in self.converted:
            node = self._gather(value, self.order, f"{value.name}_renumbered")
            self.graph.insert_before(before, node)
            inside = node.outputs[0]
            self.converted[value] = inside
            self.roles.of[inside] = NODES
            self.new.add(inside)
        return self.converted[value]

    def _restore_outputs(self) -> None:
        for index, value in enumerate(self.graph.outputs):
            role = self.roles.of.get(value)
            if role is None or (role == NODES and value not in self.new):
                continue
            rows = self.number if role == NODES else inverse(self._rows(role))
            name = value.name
            value.name = f"{name}_renumbered"
            node = self._gather(value, rows, str(name))
            self.graph.append(node)
            self.graph.outputs[index] = node.outputs[0]

    def _gather(self, value: ir.Value, rows: NDArray[Any] | ir.Value, name: str) -> ir.Node:
        out = ir.Value(name=name, shape=value.shape, type=value.type)
        index = rows if isinstance(rows, ir.Value) else self.constants.add(rows.astype(np.int32))
        return ir.node("Gather", [value, index], {"axis": 0}, outputs=[out], name=f"{name}_Gather")


def _structures(graph: ir.Graph, roles: Roles) -> set[ir.Value]:
    named = {node.inputs[1] for node in dialect_nodes(graph) if node.op_type != schemas.GATHER_SOURCE}
    named |= {role.rowptr for role in roles.of.values()}
    return {value for value in named if value is not None}


def _reads_nodes(node: ir.Node) -> bool:
    return node.op_type != schemas.REDUCE_EDGES


def _heaviest(graph: ir.Graph, roles: Roles) -> ir.Value:
    """Return the structure over which most is moved: it decides the order of the nodes."""
    moved: dict[ir.Value, int] = {}
    for node in dialect_nodes(graph):
        rowptr = node.inputs[1]
        if rowptr is not None and roles.of[node.outputs[0]] == NODES:
            moved[rowptr] = moved.get(rowptr, 0) + int(constant(rowptr)[-1]) * _width(node.outputs[0])
    return max(moved, key=lambda value: moved[value])


def _number(rowptr: Ints, order: Ints) -> Numbering:
    """Renumber a structure."""
    degree = np.diff(rowptr)[order]
    new = np.concatenate([[0], np.cumsum(degree)]).astype(np.int64)
    slots = np.arange(new[-1]) + np.repeat(rowptr[:-1][order] - new[:-1], degree)
    return Numbering(new, slots, inverse(cut(new).slot_order))


def _width(value: ir.Value) -> int:
    return math.prod(sizes(value)[1:])
