"""Lower aggregation to tables: gather the rows of equal degree, reduce them along one axis.

`Gather` and `Reduce` over [rows, degree, channels] is the fastest form of aggregation that standard operators
have. It is done in blocks that stay in the cache, because the gathered rows are read again at once; written out
whole they cost twice the memory traffic. Static and computed edge weights are a 1 × degree matrix in front.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.operators import Operator
from gnnexport.targets.onnx.pieces import Ints, Pieces
from gnnexport.targets.onnx.tape import Tape, sizes

BLOCK_BYTES = 8 << 20
"""Bytes of gathered rows between `Gather` and `Reduce` on a processor: smaller costs operators, larger cache misses."""

MOST_BLOCKS = 1024
"""Blocks of one operator: a session of many thousand nodes takes long to open."""

_REDUCE = {
    "sum": "ReduceSum",
    "mean": "ReduceMean",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "prod": "ReduceProd",
}
_FILLS = {"ReduceSum": 0.0, "ReduceProd": 1.0}
"""What changes no sum and no product; a largest or smallest is filled up by repeating."""

_Reducer = Callable[[Ints, bool], ir.Value]


def lower_ell(op: Operator, pieces: Pieces, tape: Tape, block_bytes: int = BLOCK_BYTES) -> ir.Value:
    """Record the operators of `Aggregate` or `ReduceEdges`; return the rows in `pieces.order`.

    Args:
        op: with its structure known.
        pieces: its rows, cut.
        tape: takes the operators.
        block_bytes: of gathered rows at a time.
    """
    assert op.rowptr is not None
    tail = op.tail
    if op.num_slots == 0:
        return tape.empty_rows(op.x, (len(op.rowptr) - 1, *tail), op.reduce)
    reducer = _plain(op, tape) if op.weight_shape is None else _weighted(op, tape)
    inner = _inner(op)
    block = max(block_bytes, op.num_slots * _row_bytes(op) // MOST_BLOCKS)
    direct = [part for table in pieces.direct for part in _blocks(table, reducer, block // _row_bytes(op), True)]
    rows = ([tape.empty_rows(op.x, (pieces.empty, 1, *inner), op.reduce)] if pieces.empty else []) + direct
    if pieces.second:
        partial = [part for table in pieces.partial for part in _blocks(table, reducer, block // _row_bytes(op), False)]
        rows += _second(op, pieces, tape, partial, inner)
    joined = tape.concat(rows)
    return tape.like("Reshape", [joined, np.array((-1, *tail), np.int64)], (len(op.rowptr) - 1, *tail))


def _row_bytes(op: Operator) -> int:
    assert op.x.dtype is not None
    return max(1, math.prod(op.tail)) * int(op.x.dtype.itemsize)


def _inner(op: Operator) -> tuple[int, ...]:
    """Sizes of a row while it is reduced: a single head is no axis of its own."""
    return op.tail[1:] if _single_head(op) else op.tail


def _single_head(op: Operator) -> bool:
    return op.weight_shape is not None and op.weight_shape[1:] == (1,)


def _blocks(table: Ints, reducer: _Reducer, slots_per_block: int, last: bool) -> list[ir.Value]:
    """Reduce a table block by block; rows of one slot are only copied, so they need no blocks."""
    rows, degree = table.shape
    step = rows if degree == 1 else max(1, slots_per_block // degree)
    return [reducer(table[begin : begin + step], last) for begin in range(0, rows, step)]


def _plain(op: Operator, tape: Tape) -> _Reducer:
    """Reduce without weights; `mean` of a decomposed row is a sum here and is divided at the end."""

    def reduce(table: Ints, last: bool) -> ir.Value:
        degree = table.shape[1]
        rows = _edge_rows(op, tape, op.x, table) if op.kind == schemas.REDUCE_EDGES else _sources(op, tape, op.x, table)
        kind = "sum" if op.reduce == "mean" and not last else op.reduce
        return rows if degree == 1 else _reduce(tape, _REDUCE[kind], rows)

    return reduce


def _weighted(op: Operator, tape: Tape) -> _Reducer:
    """Reduce with edge weights [num_slots] as a product with a 1 × degree matrix, with heads as a sum of products."""
    assert op.weight_shape is not None
    x, inner = op.x, _inner(op)
    if _single_head(op):
        shape = (sizes(x)[0], *inner)
        x = tape.like("Reshape", [x, np.array(shape, np.int64)], shape)
    heads = () if _single_head(op) else op.weight_shape[1:]
    lifted = (op.num_slots, *heads, *(1 for _ in inner[len(heads) :])) if heads else (op.num_slots,)
    weight = op.weight and tape.like("Reshape", [op.weight, np.array(lifted, np.int64)], lifted)
    static = None if op.static_weight is None else op.static_weight.reshape(lifted)

    def reduce(table: Ints, last: bool) -> ir.Value:
        del last
        rows, degree = table.shape
        gathered = _sources(op, tape, x, table)
        slots = table if heads else table[:, None, :]
        if static is not None:
            factor = tape.constants.add(static[slots])
        else:
            assert weight is not None
            factor = _edge_rows(op, tape, weight, slots)
        if not heads:
            return tape.like("MatMul", [factor, gathered], (rows, 1, *inner))
        product = tape.like("Mul", [gathered, factor], (rows, degree, *inner))
        return product if degree == 1 else _reduce(tape, "ReduceSum", product)

    return reduce


def _sources(op: Operator, tape: Tape, x: ir.Value, table: Ints) -> ir.Value:
    """Gather what the sources of some slots hold."""
    assert op.col is not None
    index = op.col[table].astype(np.int32)
    return tape.like("Gather", [x, index], (*table.shape, *sizes(x)[1:]), axis=0)


def _edge_rows(op: Operator, tape: Tape, values: ir.Value, table: Ints) -> ir.Value:
    """Take the rows of some slots out of edge values: cut them out where they lie together, else gather them."""
    rows = table if op.position is None else op.position[table]
    shape = (*table.shape, *sizes(values)[1:])
    flat = rows.reshape(-1)
    if not (np.diff(flat) == 1).all():
        return tape.like("Gather", [values, rows.astype(np.int32)], shape, axis=0)
    begin, end = int(flat[0]), int(flat[-1]) + 1
    bounds = [np.array([number], np.int64) for number in (begin, end, 0)]
    cut = tape.like("Slice", [values, *bounds], (end - begin, *sizes(values)[1:]))
    return tape.like("Reshape", [cut, np.array(shape, np.int64)], shape)


def _reduce(tape: Tape, op_type: str, value: ir.Value) -> ir.Value:
    rows, _, *inner = sizes(value)
    return tape.like(op_type, [value, np.array([1], np.int64)], (rows, 1, *inner), keepdims=1)


def _second(
    op: Operator, pieces: Pieces, tape: Tape, partial: list[ir.Value], inner: tuple[int, ...]
) -> list[ir.Value]:
    """Reduce the partial results of the decomposed rows."""
    kind = "ReduceSum" if op.reduce == "mean" else _REDUCE[op.reduce]
    fills = kind in _FILLS
    if fills and any((table < 0).any() for table in pieces.second):
        assert op.x.dtype is not None
        partial = [*partial, tape.constants.add(np.full((1, 1, *inner), _FILLS[kind], op.x.dtype.numpy()))]
    joined = tape.concat(partial)
    count = sizes(joined)[0]
    flat = tape.like("Reshape", [joined, np.array((count, *inner), np.int64)], (count, *inner))
    results = []
    for table in pieces.second:
        # A neutral row fills up a sum or product; a largest or smallest is not changed by repeating a piece.
        filled = np.where(table < 0, count - 1 if fills else table[:, :1], table)
        rows, width = filled.shape
        gathered = tape.like("Gather", [flat, filled.astype(np.int32)], (rows, width, *inner), axis=0)
        results.append(gathered if width == 1 else _reduce(tape, kind, gathered))
    if op.reduce != "mean":
        return results
    total = tape.concat(results)
    assert op.rowptr is not None
    degree = np.diff(op.rowptr)[pieces.order[-sizes(total)[0] :]]
    share = (1 / degree).reshape(-1, *(1 for _ in sizes(total)[1:]))
    assert op.x.dtype is not None
    return [tape.like("Mul", [total, share.astype(op.x.dtype.numpy())], sizes(total))]
