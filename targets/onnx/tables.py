"""Build the tables of a structure inside the model: which slots belong to each destination.

Standard operators only, and no scatter with a reduction: a stable sort of the destinations, the rank of each slot in
its row, and one plain scatter of slot numbers to distinct cells of a table [num_dst, largest in-degree].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from gnnexport.targets.onnx.open_tape import BOOL, INT64, OpenTape, numbers

PADDING = 16
"""A table may have this many times more cells than there are slots and rows; beyond, hubs are scattered instead."""


@dataclass
class Tables:
    """One structure, computed inside the model.

    Args:
        num_dst: int64 [1].
        perm: int64 [num_slots], the edge in each slot.
        row: int64 [num_slots], the destination of each slot.
        degree: int64 [num_dst].
        slots: int64 [num_dst, largest degree], slot numbers; `num_slots` where a row has fewer.
        fits: bool [], whether the tables may be used; `None` where they always are. Where it is false, `slots` is
            [num_dst, 0].
    """

    num_dst: ir.Value
    perm: ir.Value
    row: ir.Value
    degree: ir.Value
    slots: ir.Value
    fits: ir.Value | None
    _sources: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def sources(self, tape: OpenTape, col: ir.Value, x: ir.Value) -> ir.Value:
        """Return the rows of `x` that the cells read, int64 [num_dst, largest degree]; one past the end for none."""
        if col not in self._sources:
            padded = tape.add("Concat", col, tape.size(x), axis=0)
            self._sources[col] = tape.add("Gather", padded, self.slots, axis=0)
        return self._sources[col]


def build(tape: OpenTape, dst: ir.Value, num_dst: ir.Value, fallback: bool) -> Tables:
    """Record the tables of a structure.

    Args:
        tape: takes the operators.
        dst: int64 [num_edges], destinations in any order.
        num_dst: number of destinations.
        fallback: leave the tables empty, and say so, where hubs would make them too large.
    """
    rows, count = tape.one_dimensional(num_dst), tape.size(dst)
    row, perm = _sorted(tape, dst, count, branches=fallback)
    degree, rank = _degree_and_rank(tape, row, rows, count)
    longest = tape.add("ReduceMax", tape.add("Concat", numbers(1), degree, axis=0), numbers(0), keepdims=1)
    cells = tape.add("Mul", rows, longest)
    cell = tape.add("Add", tape.add("Mul", row, longest), rank)

    def table(inner: OpenTape) -> ir.Value:
        empty = inner.add("Expand", count, cells)
        numbered = inner.add("ScatterElements", empty, cell, _range(inner, count), axis=0)
        return inner.add("Reshape", numbered, inner.add("Concat", rows, longest, axis=0), allowzero=1)

    if not fallback:
        return Tables(rows, perm, row, degree, table(tape), None)
    most = tape.add("Mul", tape.add("Add", rows, count), numbers(PADDING))
    fits = tape.add("Squeeze", tape.add("LessOrEqual", cells, most, dtype=BOOL), numbers(0))
    slots = tape.choose(fits, table, lambda inner: _no_columns(inner, rows))
    return Tables(rows, perm, row, degree, slots, fits)


def _sorted(tape: OpenTape, dst: ir.Value, count: ir.Value, branches: bool) -> tuple[ir.Value, ir.Value]:
    """Return destinations in ascending order and the edge in each place, equal ones in the order given."""
    if not branches:
        row, perm = tape.record("TopK", [dst, count], [INT64, INT64], None, axis=0, largest=0, sorted=1)
        return row, perm
    descends = tape.add("Less", _shifted(tape, dst, 1, None), _shifted(tape, dst, 0, -1), dtype=BOOL)
    drops = tape.add("ReduceSum", tape.add("Cast", descends, dtype=INT64, to=int(INT64)), keepdims=0)
    ascending = tape.add("Equal", drops, numbers(0).reshape(()), dtype=BOOL)

    def sort(inner: OpenTape) -> ir.Value:
        return inner.record("TopK", [dst, count], [INT64, INT64], None, axis=0, largest=0, sorted=1)[1]

    perm = tape.choose(ascending, lambda inner: _range(inner, count), sort)
    return tape.add("Gather", dst, perm, axis=0), perm


def _degree_and_rank(tape: OpenTape, row: ir.Value, rows: ir.Value, count: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the slots of each row, and for each slot how many come before it in its row.

    Where a row begins and ends is scattered from the slots at its borders; all others write to a cell past the end,
    which nothing reads.
    """
    place = _range(tape, count)
    between = tape.add("Concat", numbers(-1), row, rows, axis=0)
    after_end = tape.add("Add", rows, numbers(1))
    borders = []
    for begin, end, first in ((0, -2, place), (2, None, tape.add("Add", place, numbers(1)))):
        same = tape.add("Equal", row, _shifted(tape, between, begin, end), dtype=BOOL)
        target = tape.add("Where", same, rows, row, dtype=INT64)
        zeros = tape.filled(INT64, 0, after_end)
        borders.append(tape.add("ScatterElements", zeros, target, first, axis=0))
    start, stop = borders
    degree = _shifted(tape, tape.add("Sub", stop, start), 0, -1)
    return degree, tape.add("Sub", place, tape.add("Gather", start, row, axis=0))


def pointers(tape: OpenTape, tables: Tables) -> ir.Value:
    """Return `rowptr`, int64 [num_dst + 1], for what reads it as a value."""
    total = tape.add("CumSum", tables.degree, numbers(0).reshape(()))
    return tape.add("Concat", numbers(0), total, axis=0)


def _shifted(tape: OpenTape, value: ir.Value, begin: int, end: int | None) -> ir.Value:
    stop = (1 << 62) if end is None else end
    return tape.add("Slice", value, numbers(begin), numbers(stop), numbers(0))


def _range(tape: OpenTape, count: ir.Value) -> ir.Value:
    zero, one = numbers(0).reshape(()), numbers(1).reshape(())
    return tape.add("Range", zero, tape.add("Squeeze", count, numbers(0)), one, dtype=INT64)


def _no_columns(tape: OpenTape, rows: ir.Value) -> ir.Value:
    return tape.filled(INT64, 0, tape.add("Concat", rows, numbers(0), axis=0))
