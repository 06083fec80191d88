"""Store quantised weights as the levels that they are: one byte for each, and a step for each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.matching import is_constant, producer
from gnnexport.targets.onnx.quantisers import OF_LEVELS, Floats, constant_levels, quantise_nodes, read_quantiser
from gnnexport.targets.onnx.tape import Constants

DEQUANTIZE = "DequantizeLinear"

_NARROW_FORM = "gnnexport.narrow_form"
"""Key of `Value.meta` of weights that were widened: the initialisers of levels and steps, and the axis."""


@dataclass(frozen=True)
class QuantisedWeight:
    """A matrix as levels with steps.

    Args:
        levels: int8 [rows, columns].
        step: float32, one for each entry along the axis, or a single one.
        axis: 0 or 1.
        names: of the operands that it is.
    """

    levels: NDArray[np.int8]
    step: Floats
    axis: int
    names: tuple[str, ...] = ()

    @property
    def turned(self) -> QuantisedWeight:
        """The transposed matrix."""
        return QuantisedWeight(np.ascontiguousarray(self.levels.T), self.step, 1 - self.axis, self.names)

    @property
    def by_row(self) -> Floats | None:
        """The step of each row; `None` where rows have several."""
        if len(self.step) == 1:
            return np.repeat(self.step, len(self.levels))
        return self.step if self.axis == 0 else None


def keep_constants(constants: Constants, array: NDArray[Any]) -> ir.Value:
    """Return an initialiser of steps or widths."""
    value = constants.add(array, of_graph=False)
    value.meta[OF_LEVELS] = True
    return value


def keep_weights(constants: Constants, array: NDArray[Any], names: tuple[str, ...]) -> ir.Value:
    """Return an initialiser of weights, which may be those of several operands: equal ones are stored once."""
    value = constants.add(array, of_graph=False)
    value.meta[schemas.OPERAND] = tuple(dict.fromkeys((*value.meta.get(schemas.OPERAND, ()), *names)))
    return value


def fold_weights(graph: ir.Graph) -> None:
    """Replace every quantiser of a constant by `DequantizeLinear` of its levels, in place.

    Where the steps are neither along one axis nor single, where levels do not fit into a byte, and where nothing but
    constants is multiplied by them, as features of edges of a graph that is known, the constant keeps its type and is
    rounded.
    """
    constants = Constants(graph)
    for node in quantise_nodes(graph):
        if node.op_type == schemas.QUANTIZE and is_constant(node.inputs[0]):
            _fold(graph, constants, node)
    for node in list(graph):
        if node.op_type == "Transpose" and weight_of(node.inputs[0]) is not None:
            _turn(graph, constants, node)


def weight_of(value: ir.Value | None) -> QuantisedWeight | None:
    """Return the levels and steps that a matrix is made of, if it is one that `fold_weights` made."""
    node = producer(value, DEQUANTIZE)
    if node is None or len(node.inputs) != 2 or not all(is_constant(item) for item in node.inputs):
        return None
    stored, step = _arrays(node)
    if stored.ndim != 2:
        return None
    axis = node.attributes.get_int("axis", 1) if step.ndim else 0
    return QuantisedWeight(stored, step.reshape(-1), axis, _operands(node))


def widen_weights(graph: ir.Graph) -> None:
    """Store quantised weights as the numbers that they stand for, in place, for operators that read no levels."""
    constants = Constants(graph)
    for node in list(graph):
        if node.op_type != DEQUANTIZE or not all(is_constant(item) for item in node.inputs):
            continue
        stored, step = _arrays(node)
        axis = node.attributes.get_int("axis", 1)
        lifted = [-1 if place == axis else 1 for place in range(stored.ndim)] if step.ndim else []
        numbers = stored.astype(np.float32) * step.reshape(lifted)
        value = keep_weights(constants, numbers, _operands(node))
        value.meta[_NARROW_FORM] = (stored, step, axis)
        ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        drop_unread(graph, node)


def _arrays(node: ir.Node) -> tuple[NDArray[Any], Floats]:
    """Return the levels and steps of a node that widens constants."""
    stored, step = (item.const_value for item in node.inputs[:2] if item is not None)
    assert stored is not None
    assert step is not None
    return stored.numpy(), step.numpy()


def _operands(node: ir.Node) -> tuple[str, ...]:
    """Return what the weights of a node are called in the Program."""
    levels = node.inputs[0]
    return () if levels is None else tuple(levels.meta.get(schemas.OPERAND, ()))


def store_levels(graph: ir.Graph) -> None:
    """Store weights that were widened as levels again where only standard operators read them, in place."""
    constants = Constants(graph)
    for value in list(graph.initializers.values()):
        readers = [use.node for use in value.uses()]
        if _NARROW_FORM not in value.meta or not readers or any(node.domain for node in readers):
            continue
        stored, step, axis = value.meta[_NARROW_FORM]
        levels = keep_weights(constants, stored, value.meta[schemas.OPERAND])
        new = ir.node(
            DEQUANTIZE, [levels, keep_constants(constants, step)], {"axis": axis}, name=f"{value.name}_widened"
        )
        out = new.outputs[0]
        out.name, out.shape, out.type = f"{value.name}_widened", value.shape, value.type
        ir.convenience.replace_all_uses_with(value, out)
        graph.insert_before(graph[0], new)
        del graph.initializers[str(value.name)]


def drop_unread(graph: ir.Graph, node: ir.Node) -> None:
    """Remove the constants that only a removed node read."""
    for value in {item for item in node.inputs if item is not None}:
        if value.is_initializer() and not list(value.uses()) and not value.is_graph_output():
            del graph.initializers[str(value.name)]


def drop_widened(graph: ir.Graph, weight: ir.Value | None) -> None:
    """Remove what widens weights that nothing reads any more, in place."""
    node = producer(weight, DEQUANTIZE)
    if node is not None and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
        graph.remove(node, safe=True)
        drop_unread(graph, node)


def _fold(graph: ir.Graph, constants: Constants, node: ir.Node) -> None:
    quantiser = read_quantiser(node)
    stored, step = constant_levels(quantiser)
    axis = _axis(step.shape, stored.ndim)
    out = node.outputs[0]
    fits = np.abs(stored).max(initial=0) <= 127
    if axis is None or not fits or _meets_constants(out):
        value = keep_weights(constants, stored.astype(np.float32) * step, (quantiser.name,))
        ir.convenience.replace_all_uses_with(out, value, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    else:
        scale = step.reshape(()) if step.size == 1 else step.reshape(-1)
        levels = keep_weights(constants, stored.astype(np.int8), (quantiser.name,))
        inputs = [levels, keep_constants(constants, scale)]
        new = ir.node(DEQUANTIZE, inputs, {"axis": axis}, name=f"{out.name}_widened")
        _put(graph, node, new)
    drop_unread(graph, node)


def _meets_constants(value: ir.Value) -> bool:
    """Tell whether a matrix is read by products with constants alone, which engines compute when they load a model."""
    readers = [node for node, _ in value.uses()]
    return bool(readers) and all(
        _meets_constants(node.outputs[0])
        if node.op_type == "Transpose"
        else node.op_type in ("MatMul", "Gemm") and is_constant(node.inputs[0])
        for node in readers
    )


def _axis(shape: tuple[int, ...], rank: int) -> int | None:
    """Return the one axis along which steps differ, of a shape that is broadcast; `None` where there are several."""
    if rank == 0:
        return None
    whole = (1,) * (rank - len(shape)) + shape
    along = [axis for axis, size in enumerate(whole) if size > 1]
    return None if len(along) > 1 else along[0] if along else 0


def _turn(graph: ir.Graph, constants: Constants, node: ir.Node) -> None:
    """Store the transpose of a quantised matrix."""
    weight = weight_of(node.inputs[0])
    assert weight is not None
    given = node.inputs[0]
    assert given is not None
    source = given.producer()
    assert source is not None
    turned = weight.turned
    stored = keep_weights(constants, turned.levels, weight.names)
    inputs = [stored, source.inputs[1]]
    new = ir.node(DEQUANTIZE, inputs, {"axis": turned.axis}, name=f"{node.outputs[0].name}_widened")
    _put(graph, node, new)
    drop_widened(graph, given)


def _put(graph: ir.Graph, node: ir.Node, new: ir.Node) -> None:
    out = node.outputs[0]
    new.outputs[0].shape, new.outputs[0].type, new.outputs[0].name = out.shape, out.type, f"{out.name}_widened"
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [out], new.outputs)
