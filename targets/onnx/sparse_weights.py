"""Weights with many zeros: compressed in files, and told one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.halves import HALF_OF
from gnnexport.targets.onnx.quantised_weights import keep_constants
from gnnexport.targets.onnx.quantisers import OF_LEVELS
from gnnexport.targets.onnx.tape import FOLDED, OF_GRAPH, Constants

FEWEST = 1024
"""Numbers from which compressing them may outweigh the nodes of a file that write them out again."""

NODES_BYTES = 700
"""What these nodes take, about."""

LEAST_ZEROS = 0.5
"""Share of zeros from which a matrix is compressed: below it, 16 bits a number may be the smaller form."""

FARTHEST = 255
"""Places from one stored number to the next; where the next is farther off, a zero is stored in between."""

_MOST = 1 << 31
"""Places that 32 bits count."""

_OF_WEIGHT = "gnnexport.of_weight"
"""Key of `Value.meta` of initialisers that a compressed matrix consists of: its name, numbers and zeros."""

_STORED = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.INT8)


@dataclass(frozen=True)
class Weight:
    """A matrix of weights in the files of a model.

    Args:
        name: of its initialiser.
        numbers: in it.
        zeros: among them.
        dense_bytes: that it takes written out.
        stored_bytes: that it takes in the files, places of numbers included.
        skipped: zeros that the operator chosen for it never multiplies; `None` where an engine decides that by itself.
        layout: in which that operator holds it, or may.
    """

    name: str
    numbers: int
    zeros: int
    dense_bytes: int
    stored_bytes: int
    skipped: int | None = 0
    layout: str = "dense"


def store_sparse(model: ir.Model) -> int:
    """Store matrices of which half or more are zeros as what is left and where, in place.

    Five standard operators write the matrix out again, which a runtime does once, when it loads the model. Nothing that
    is computed changes by a bit: a negative zero is stored as a number.

    Returns:
        How many matrices that were.
    """
    graph, stored = model.graph, 0
    constants = Constants(graph)
    for value in list(graph.initializers.values()):
        if not _is_weight(value) or value.is_graph_output() or not value.uses():
            continue
        assert value.const_value is not None
        size = value.const_value.size
        if not FEWEST <= size < _MOST:
            continue
        matrix = value.const_value.numpy()
        if np.count_nonzero(matrix) > (1 - LEAST_ZEROS) * size:
            continue
        gaps, numbers = compress(matrix)
        if len(numbers) * (1 + matrix.itemsize) + NODES_BYTES < matrix.nbytes:
            _write_out(graph, constants, value, gaps, numbers)
            stored += 1
    return stored


def compress(matrix: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Return the numbers of a matrix that are not zero, row by row, and how many places each is behind the one before.

    Places are counted from the first, which is place 0. Where the gap is more than a byte holds, zeros are among them.
    """
    flat = np.ascontiguousarray(matrix).reshape(-1)
    places = np.flatnonzero(flat.view(f"u{flat.itemsize}"))
    if not len(places):  # something has to be put somewhere
        return np.zeros(1, np.uint8), np.zeros(1, flat.dtype)
    gaps = np.diff(places, prepend=0)
    steps = np.maximum(1, -(-gaps // FARTHEST))
    written = np.full(int(steps.sum()), FARTHEST, np.uint8)
    numbers = np.zeros(len(written), flat.dtype)
    last = np.cumsum(steps) - 1
    written[last] = gaps - (steps - 1) * FARTHEST
    numbers[last] = flat[places]
    return written, numbers


def weights_of(models: Iterable[ir.Model], executed: Mapping[str, tuple[int, int, str]]) -> tuple[Weight, ...]:
    """List the matrices of weights of models as `write` left them.

    Args:
        models: with their weights as they are stored.
        executed: by name, of matrices that an operator may hold without their zeros: zeros, numbers, and the layout.
    """
    found: dict[str, Weight] = {}
    for value in (value for model in models for value in model.graph.initializers.values()):
        tensor = value.const_value
        assert tensor is not None
        if value.meta.get(FOLDED):
            continue
        if _OF_WEIGHT in value.meta:
            name, numbers, zeros = value.meta[_OF_WEIGHT]
            old = found.get(name, Weight(name, numbers, zeros, 0, 0))
            dense = 0 if tensor.dtype == ir.DataType.UINT8 else numbers * int(tensor.dtype.itemsize)
            stored = old.stored_bytes + tensor.nbytes
            found[name] = replace(old, dense_bytes=old.dense_bytes + dense, stored_bytes=stored)
        elif _is_weight(value):
            name = _name(value)
            zeros = tensor.size - int(np.count_nonzero(tensor.numpy()))
            found[name] = Weight(name, tensor.size, zeros, tensor.nbytes, tensor.nbytes)
    return tuple(_told(item, executed.get(item.name)) for item in found.values())


def _told(weight: Weight, executed: tuple[int, int, str] | None) -> Weight:
    """Add what becomes of a matrix when the model runs."""
    if executed is None or executed[2] == weight.layout:
        return weight
    return replace(weight, skipped=executed[0], layout=executed[2])


def _is_weight(value: ir.Value) -> bool:
    """Tell whether an initialiser is a matrix of weights, which steps, widths and the graph are not."""
    tensor = value.const_value
    if tensor is None or value.meta.get(OF_GRAPH) or value.meta.get(OF_LEVELS):
        return False
    # A single row or column is a bias or a vector of attention; a third dimension is that of several matrices.
    return tensor.dtype in _STORED and len(tensor.shape) in (2, 3) and min(tensor.shape.numpy()) > 1


def _name(value: ir.Value) -> str:
    """Return what a matrix is called: in the Program where it is quantised, else in the model."""
    operands = value.meta.get(schemas.OPERAND)
    return str(operands[0] if operands else value.meta.get(HALF_OF, value.name))


def _write_out(
    graph: ir.Graph, constants: Constants, value: ir.Value, gaps: NDArray[np.uint8], numbers: NDArray[Any]
) -> None:
    """Put the nodes in the place of a matrix that write it out from what is stored of it."""
    tensor, name = value.const_value, str(value.name)
    assert tensor is not None
    zeros = tensor.size - int(np.count_nonzero(tensor.numpy()))
    meta = {**value.meta, _OF_WEIGHT: (_name(value), tensor.size, zeros)}
    inputs = {}
    for part, array in (("gaps", gaps), ("numbers", numbers)):
        item = ir.Value(name=f"{name}_{part}", const_value=ir.tensor(array, name=f"{name}_{part}"))
        item.shape, item.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
        item.meta.update(meta)
        graph.register_initializer(item)
        inputs[part] = item
    count, shape = (keep_constants(constants, np.array(sizes, np.int64)) for sizes in ([tensor.size], tensor.shape))
    fill = ir.tensor(np.zeros(1, numbers.dtype))
    wide = ir.node("Cast", [inputs["gaps"]], {"to": ir.DataType.INT32})
    places = ir.node("CumSum", [wide.outputs[0], keep_constants(constants, np.array(0, np.int64))])
    empty = ir.node("ConstantOfShape", [count], {"value": fill})
    flat = ir.node("ScatterElements", [empty.outputs[0], places.outputs[0], inputs["numbers"]], {"axis": 0})
    whole = ir.node("Reshape", [flat.outputs[0], shape])
    nodes = (wide, places, empty, flat, whole)
    for node in nodes:
        node.name = node.outputs[0].name = f"{name}_{node.op_type}"
    out = whole.outputs[0]
    out.shape, out.type = value.shape, value.type
    ir.convenience.replace_all_uses_with(value, out)
    del graph.initializers[name]
    graph.insert_before(graph[0], nodes)
    out.name = name
