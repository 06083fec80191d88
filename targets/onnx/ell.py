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
from numpy.typing import NDArray

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.operators import Operator
from gnnexport.targets.onnx.pieces import Ints, Pieces
from gnnexport.targets.onnx.tape import Tape, sizes

BLOCK_BYTES = 4 << 20
"""Bytes of gathered rows between `Gather` and `Reduce`: smaller costs operators, larger costs cache misses."""

MOST_BLOCKS = 1024
"""Blocks of one operator: a session of many thousand nodes takes long to open."""

_REDUCE = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin"}

_Reducer = Callable[[Ints, bool], ir.Value]


def lower_ell(op: Operator, pieces: Pieces, tape: Tape) -> ir.Value:
    """Record the operators of `Aggregate` or `ReduceEdges`; return the rows in `pieces.order`."""
    assert op.rowptr is not None
    tail = op.tail
    if op.num_slots == 0:
        return tape.zeros(op.x, (len(op.rowptr) - 1, *tail))
    reducer = _weighted(op, tape) if op.weight is not None else _plain(op, tape)
    inner = _inner(op)
    block = max(BLOCK_BYTES, op.num_slots * _row_bytes(op) // MOST_BLOCKS)
    direct = [part for table in pieces.direct for part in _blocks(table, reducer, block // _row_bytes(op), True)]
    rows = ([tape.zeros(op.x, (pieces.empty, 1, *inner))] if pieces.empty else []) + direct
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
    return op.weight is not None and len(sizes(op.weight)) == 2 and sizes(op.weight)[1] == 1


def _blocks(table: Ints, reducer: _Reducer, slots_per_block: int, last: bool) -> list[ir.Value]:
    """Reduce a table block by block; rows of one slot are only copied, so they need no blocks."""
    rows, degree = table.shape
    step = rows if degree == 1 else max(1, slots_per_block // degree)
    return [reducer(table[begin : begin + step], last) for begin in range(0, rows, step)]


def _plain(op: Operator, tape: Tape) -> _Reducer:
    """Reduce without weights; `mean` of a decomposed row is a sum here and is divided at the end."""
    index = op.col if op.kind == schemas.AGGREGATE else None

    def reduce(table: Ints, last: bool) -> ir.Value:
        source = table if index is None else index[table]
        rows, degree = table.shape
        gathered = tape.like("Gather", [op.x, source.astype(np.int32)], (rows, degree, *op.tail), axis=0)
        if degree == 1:
            return gathered
        kind = "sum" if op.reduce == "mean" and not last else op.reduce
        return _reduce(tape, _REDUCE[kind], gathered)

    return reduce


def _weighted(op: Operator, tape: Tape) -> _Reducer:
    """Reduce with edge weights [num_slots] as a product with a 1 × degree matrix, with heads as a sum of products."""
    assert op.weight is not None
    assert op.col is not None
    col, weight, x = op.col, op.weight, op.x
    inner = _inner(op)
    num_slots, num_src = sizes(weight)[0], sizes(x)[0]
    if _single_head(op):
        x = tape.like("Reshape", [x, np.array((num_src, *inner), np.int64)], (num_src, *inner))
        weight = tape.like("Reshape", [weight, np.array([num_slots], np.int64)], (num_slots,))
    heads = sizes(weight)[1:]
    if heads:
        lifted = (num_slots, *heads, *(1 for _ in inner[len(heads) :]))
        weight = tape.like("Reshape", [weight, np.array(lifted, np.int64)], lifted)

    static = op.static_weight

    def reduce(table: Ints, last: bool) -> ir.Value:
        del last
        rows, degree = table.shape
        gathered = tape.like("Gather", [x, col[table].astype(np.int32)], (rows, degree, *inner), axis=0)
        slots = table if heads else table[:, None, :]
        factor = _take(tape, weight, static, slots)
        if heads:
            product = tape.like("Mul", [gathered, factor], (rows, degree, *inner))
            return product if degree == 1 else _reduce(tape, "ReduceSum", product)
        return tape.like("MatMul", [factor, gathered], (rows, 1, *inner))

    return reduce


def _take(tape: Tape, weight: ir.Value, static: NDArray[np.floating] | None, slots: Ints) -> ir.Value:
    """Return the weights of some slots: a constant where the weights are."""
    if static is not None:
        return tape.constants.add(static.reshape(sizes(weight))[slots])
    return tape.like("Gather", [weight, slots.astype(np.int32)], (*slots.shape, *sizes(weight)[1:]), axis=0)


def _reduce(tape: Tape, op_type: str, value: ir.Value) -> ir.Value:
    rows, _, *inner = sizes(value)
    return tape.like(op_type, [value, np.array([1], np.int64)], (rows, 1, *inner), keepdims=1)


def _second(
    op: Operator, pieces: Pieces, tape: Tape, partial: list[ir.Value], inner: tuple[int, ...]
) -> list[ir.Value]:
    """Reduce the partial results of the decomposed rows."""
    kind = "ReduceMax" if op.reduce == "max" else "ReduceMin" if op.reduce == "min" else "ReduceSum"
    adds = kind == "ReduceSum"
    padded = adds and any((table < 0).any() for table in pieces.second)
    if padded:
        partial = [*partial, tape.zeros(op.x, (1, 1, *inner))]
    joined = tape.concat(partial)
    count = sizes(joined)[0]
    flat = tape.like("Reshape", [joined, np.array((count, *inner), np.int64)], (count, *inner))
    results = []
    for table in pieces.second:
        # A neutral row fills up a sum; a largest or smallest is not changed by repeating a piece.
        filled = np.where(table < 0, count - 1 if adds else table[:, :1], table)
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
