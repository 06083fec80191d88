"""Build the tables of a structure inside the model: which slots belong to each destination.

Standard operators only, and no scatter with a reduction: a stable sort of the destinations, the rank of each slot in
its row, and one plain scatter of slot numbers to distinct cells of a table [num_dst, largest in-degree].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from gnnexport.targets.onnx.open_tape import BOOL, INT64, OpenTape, numbers

Hubs = Literal["branch", "blend", "grow"]
"""What happens where hubs would make the tables too large: an `If` scatters instead; the slots are scattered onto what
tables without them give, which takes no `If`; or the tables grow as they must."""

PADDING = 16
"""A table may have this many times more cells than there are slots and rows; beyond, slots are scattered instead."""


@dataclass
class Tables:
    """One structure, computed inside the model.

    Args:
        num_dst: int64 [1].
        perm: int64 [num_slots], the edge in each slot.
        row: int64 [num_slots], the destination of each slot.
        degree: int64 [num_dst].
        slots: int64 [num_dst, largest degree], slot numbers; `num_slots` where a row has fewer.
        fits: bool [], whether the tables may be used; `None` where no `If` asks. Where it is false, `slots` is
            [num_dst, 0].
        left: int64 [1], how many slots stand in no table and are to be scattered: all or none; `None` where that
            does not happen, or an `If` asks. Where it is all, `slots` is [num_dst, 1] and says `num_slots`.
    """

    num_dst: ir.Value
    perm: ir.Value
    row: ir.Value
    degree: ir.Value
    slots: ir.Value
    fits: ir.Value | None = None
    left: ir.Value | None = None
    _sources: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def sources(self, tape: OpenTape, col: ir.Value, num_src: ir.Value) -> ir.Value:
        """Return the source that each cell reads, int64 [num_dst, largest degree]; one past the last for none."""
        if col not in self._sources:
            padded = tape.add("Concat", col, num_src, axis=0)
            self._sources[col] = tape.add("Gather", padded, self.slots, axis=0)
        return self._sources[col]


def build(tape: OpenTape, dst: ir.Value, num_dst: ir.Value, hubs: Hubs) -> Tables:
    """Record the tables of a structure.

    Args:
        tape: takes the operators.
        dst: int64 [num_edges], destinations in any order.
        num_dst: number of destinations.
        hubs: what happens where they would make the tables too large.
    """
    rows, count = tape.one_dimensional(num_dst), tape.size(dst)
    row, perm = _sorted(tape, dst, count, branches=hubs == "branch")
    degree, rank = _degree_and_rank(tape, row, rows, count)
    return _laid_out(tape, rows, count, perm, row, degree, rank, hubs)


def given(tape: OpenTape, rowptr: ir.Value, row: ir.Value, hubs: Hubs) -> Tables:
    """Record the tables of a structure that is sorted already.

    Args:
        tape: takes the operators.
        rowptr: int64 [num_dst + 1].
        row: int64 [num_slots], the destination of each slot.
        hubs: what happens where they would make the tables too large.
    """
    count = tape.size(row)
    start = _shifted(tape, rowptr, 0, -1)
    degree = tape.add("Sub", _shifted(tape, rowptr, 1, None), start)
    place = _range(tape, count)
    rank = tape.add("Sub", place, tape.add("Gather", start, row, axis=0))
    return _laid_out(tape, tape.size(start), count, place, row, degree, rank, hubs)


def _laid_out(
    tape: OpenTape, rows: ir.Value, count: ir.Value, perm: ir.Value, row: ir.Value, degree: ir.Value, rank: ir.Value,
    hubs: Hubs,
) -> Tables:  # fmt: skip
    """Record the tables of slots whose row, and rank in it, are known."""
    longest = tape.add("ReduceMax", tape.add("Concat", numbers(1), degree, axis=0), numbers(0), keepdims=1)
    place = _range(tape, count)
    if hubs == "grow":
        return Tables(rows, perm, row, degree, _table(tape, rows, longest, row, rank, place, count))
    most = tape.add("Mul", tape.add("Add", rows, count), numbers(PADDING))
    # The product of rows and width is no number to compare: OpenVINO computes in 32 bits.
    widest = tape.add("Div", most, tape.add("Max", rows, numbers(1)))
    fits = tape.add("LessOrEqual", longest, widest, dtype=BOOL)
    if hubs == "branch":
        fits = tape.add("Squeeze", fits, numbers(0))
        slots = tape.choose(
            fits,
            lambda inner: _table(inner, rows, longest, row, rank, place, count),
            lambda inner: inner.filled(INT64, 0, inner.add("Concat", rows, numbers(0), axis=0)),
        )
        return Tables(rows, perm, row, degree, slots, fits=fits)
    width = tape.add("Where", fits, longest, numbers(1), dtype=INT64)
    inside = tape.add("Min", rank, tape.add("Sub", width, numbers(1)))
    told = tape.add("Where", fits, place, count, dtype=INT64)
    slots = _table(tape, rows, width, row, inside, told, count)
    return Tables(rows, perm, row, degree, slots, left=tape.add("Where", fits, numbers(0), count, dtype=INT64))


def _table(
    tape: OpenTape, rows: ir.Value, width: ir.Value, row: ir.Value, rank: ir.Value, place: ir.Value, count: ir.Value
) -> ir.Value:
    """Write the number of each slot to its row and column, int64 [rows, width]; `count` stands everywhere else."""
    empty = tape.add("Expand", count, tape.add("Mul", rows, width))
    cell = tape.add("Add", tape.add("Mul", row, width), rank)
    numbered = tape.add("ScatterElements", empty, cell, place, axis=0)
    return tape.add("Reshape", numbered, tape.add("Concat", rows, width, axis=0), allowzero=1)


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
