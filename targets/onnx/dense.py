"""Lower aggregation to a product with the adjacency as a dense matrix: for small or crowded graphs."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.operators import Operator
from gnnexport.targets.onnx.tape import Tape, sizes

MOST_BYTES = 64 << 20
"""Bytes of an adjacency that may go into a model."""


def dense_applies(op: Operator) -> bool:
    """Tell whether an operator is a product with a constant adjacency of bearable size."""
    if op.kind != schemas.AGGREGATE or op.reduce not in ("sum", "mean"):
        return False
    if op.weight is not None or len(op.weight_shape or (1,)) != 1:
        return False
    assert op.rowptr is not None
    return 4 * (len(op.rowptr) - 1) * sizes(op.x)[0] <= MOST_BYTES


def lower_dense(op: Operator, tape: Tape) -> ir.Value:
    """Record the product; rows keep their order."""
    matrix = _adjacency(op)
    tail = op.tail
    rows, columns = matrix.shape
    x = op.x
    if len(tail) != 1:
        flat = (columns, math.prod(tail))
        x = tape.like("Reshape", [x, np.array(flat, np.int64)], flat)
    out = tape.op("MatMul", [matrix, x], x.dtype or ir.DataType.FLOAT, (rows, math.prod(tail)))
    return out if len(tail) == 1 else tape.like("Reshape", [out, np.array((rows, *tail), np.int64)], (rows, *tail))


def _adjacency(op: Operator) -> NDArray[np.floating]:
    """Return [num_dst, num_src]; duplicate edges add up."""
    assert op.rowptr is not None
    assert op.col is not None
    assert op.x.dtype is not None
    degree = np.diff(op.rowptr)
    row = op.rows_of_slots
    weight = np.ones(len(op.col)) if op.static_weight is None else op.static_weight.astype(np.float64)
    if op.reduce == "mean":
        weight = weight / degree[row]
    matrix = np.zeros((len(degree), sizes(op.x)[0]))
    np.add.at(matrix, (row, op.col), weight)
    return matrix.astype(op.x.dtype.numpy())
