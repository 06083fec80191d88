"""Lower aggregation to `ScatterElements` with a reduction: the last resort.

`ScatterND` would need no index for each element, but ONNX Runtime runs it on several threads that overwrite each
other's sums.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.operators import Operator
from gnnexport.targets.onnx.tape import Tape

REDUCTION = {"sum": "add", "mean": "add", "max": "max", "min": "min", "prod": "mul"}
"""What `ScatterElements` calls each reduction."""

NEUTRAL = {"max": -np.inf, "min": np.inf, "prod": 1.0}
"""What changes no reduction of its kind; zero for the others."""


def lower_scatter(op: Operator, tape: Tape) -> ir.Value:
    """Record the scatter of `Aggregate` or `ReduceEdges`; rows keep their order."""
    assert op.rowptr is not None
    assert op.x.dtype is not None
    degree = np.diff(op.rowptr)
    tail = op.tail
    shape, slots = (len(degree), *tail), (op.num_slots, *tail)
    if op.num_slots == 0:
        return tape.empty_rows(op.x, shape, op.reduce)
    dtype = op.x.dtype.numpy()
    row = op.by_position(op.rows_of_slots).reshape(-1, *(1 for _ in tail))
    index = tape.op("Expand", [row, np.array(slots, np.int64)], ir.DataType.INT64, slots)
    start = tape.op(
        "Expand", [np.array(NEUTRAL.get(op.reduce, 0), dtype), np.array(shape, np.int64)], op.x.dtype, shape
    )
    inputs = [start, index, _messages(op, tape)]
    out = tape.like("ScatterElements", inputs, shape, axis=0, reduction=REDUCTION[op.reduce])
    per_row = degree.reshape(-1, *(1 for _ in tail))
    if op.reduce == "mean":
        return tape.like("Mul", [out, (1 / np.maximum(per_row, 1)).astype(dtype)], shape)
    if op.reduce in ("max", "min") and not degree.all():
        return tape.op("Where", [per_row > 0, out, np.zeros((), dtype)], op.x.dtype, shape)
    return out


def _messages(op: Operator, tape: Tape) -> ir.Value:
    """Return what each slot sends: [num_slots, ...]."""
    if op.kind == schemas.REDUCE_EDGES:
        return op.x
    assert op.col is not None
    slots = (op.num_slots, *op.tail)
    gathered = tape.like("Gather", [op.x, op.by_position(op.col).astype(np.int32)], slots, axis=0)
    shape = op.weight_shape
    if shape is None:
        return gathered
    factor = shape + (1,) * (len(slots) - len(shape))
    if op.static_weight is not None:
        return tape.like("Mul", [gathered, op.by_position(op.static_weight).reshape(factor)], slots)
    weight = tape.like("Reshape", [op.weight, np.array(factor, np.int64)], factor)
    return tape.like("Mul", [gathered, weight], slots)
