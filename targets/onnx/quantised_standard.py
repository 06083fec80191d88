"""Write quantisers in standard operators, which give the same numbers as PyTorch, bit for bit.

The levels are those of `gnnexport.program.dialect.quantize`: the same float32 operations in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.program.dialect.quantize import LEAST_STEP
from gnnexport.targets.onnx.matching import producer
from gnnexport.targets.onnx.open_tape import BOOL, INT64, OpenTape, Operand, numbers, rank
from gnnexport.targets.onnx.quantised_weights import drop_unread, keep_constants
from gnnexport.targets.onnx.quantisers import PER_NODE, Quantiser, quantise_nodes, read_quantiser
from gnnexport.targets.onnx.tape import Constants

FLOAT = ir.DataType.FLOAT
INT32 = ir.DataType.INT32

_HALF, _NONE = np.float32(0.5), np.float32(0)


@dataclass(frozen=True)
class Spread:
    """Step, its inverse and the largest level, as they are broadcast against what is quantised."""

    step: Operand
    inverse: Operand
    top: Operand


def expand_quantisers(graph: ir.Graph) -> None:
    """Replace every quantiser in place; those of constants have to be folded before."""
    constants = Constants(graph)
    for node in quantise_nodes(graph):
        quantiser = read_quantiser(node)
        tape = QuantiserTape(constants, f"{quantiser.out.name}.levels")
        spread = spread_of(quantiser, tape)
        result = tape.like_x(quantiser, "Mul", level_of(quantiser, spread, tape), spread.step)
        ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [quantiser.out], [result])
        drop_unread(graph, node)


class QuantiserTape(OpenTape):
    """A tape whose constants are steps and widths, and whose results have the sizes of what is quantised."""

    def constant(self, array: Operand) -> ir.Value:
        """Return a constant that is no part of the graph."""
        return array if isinstance(array, ir.Value) else keep_constants(self.constants, array)

    def like_x(self, quantiser: Quantiser, op_type: str, *inputs: Operand, **attributes: int | float) -> ir.Value:
        """Record an operator whose result has the sizes of what is quantised."""
        values = [self.constant(item) for item in inputs]
        assert quantiser.x.shape is not None
        return self.record(op_type, values, [FLOAT], list(quantiser.x.shape), **attributes)[0]

    def per_row(
        self, op_type: str, *inputs: Operand, rows: int | ir.SymbolicDim, dtype: ir.DataType = FLOAT, ones: int = 0,
        **attributes: int,
    ) -> ir.Value:  # fmt: skip
        """Record an operator whose result has one entry for each row, and sizes of one behind."""
        values = [self.constant(item) for item in inputs]
        return self.record(op_type, values, [dtype], [rows, *[1] * ones], **attributes)[0]


def level_of(quantiser: Quantiser, spread: Spread, tape: QuantiserTape, *, whole: bool = True) -> ir.Value:
    """Record the level of each entry, float32.

    Args:
        quantiser: whose levels these are.
        spread: as `spread_of` gives it.
        tape: takes the operators.
        whole: cut off what is behind the point; an unsigned level that is cast to integers needs that no more.
    """

    def op(op_type: str, *inputs: Operand) -> ir.Value:
        return tape.like_x(quantiser, op_type, *inputs)

    z = op("Mul", quantiser.x, spread.inverse)
    if quantiser.signed:
        size = op("Floor", op("Add", op("Min", op("Abs", z), spread.top), _half()))
        return op("Mul", op("Sign", z), size)
    if producer(quantiser.x, "Relu") is None:
        z = op("Max", z, np.array(_NONE))
    raised = op("Add", op("Min", z, spread.top), _half())
    return op("Floor", raised) if whole else raised


def _half() -> Operand:
    return np.array(_HALF)


def spread_of(quantiser: Quantiser, tape: QuantiserTape) -> Spread:
    """Record what has to be computed of step, inverse and largest level; most often they are constants."""
    if quantiser.dynamic:
        return _at_run_time(quantiser, tape)
    if quantiser.by == "nearest":
        if len(quantiser.groups()[0]) > 1:
            return _of_groups(quantiser, tape)
        quantiser = quantiser.only_group
    if quantiser.single:
        step, inverse, top = (array.reshape(()) for array in (quantiser.step, quantiser.inverse, quantiser.top))
        return Spread(step, inverse, top)
    if quantiser.by == "columns":
        assert quantiser.x.shape is not None
        tail = [int(size) for size in list(quantiser.x.shape)[1:] if isinstance(size, int)]
        return Spread(quantiser.step.reshape(1, *tail), quantiser.inverse.reshape(1, *tail), quantiser.top.reshape(()))
    return _of_rows(quantiser, tape)


def _at_run_time(quantiser: Quantiser, tape: QuantiserTape) -> Spread:
    """Let the largest magnitude of each row, or of all, be the largest level."""
    assert quantiser.x.shape is not None
    of_all, whole = quantiser.by == "tensor", rank(quantiser.x)
    rows = 1 if of_all else quantiser.x.shape[0]

    def op(op_type: str, *inputs: Operand) -> ir.Value:
        return tape.per_row(op_type, *inputs, rows=rows, ones=whole - 1)

    size = tape.like_x(quantiser, "Abs", quantiser.x)
    largest = op("ReduceMax", size, numbers(*range(0 if of_all else 1, whole)))
    top = quantiser.top.reshape(())
    step = op("Max", op("Div", largest, top), np.array(np.float32(LEAST_STEP)))
    return Spread(step, op("Reciprocal", step), top)


def _of_rows(quantiser: Quantiser, tape: QuantiserTape) -> Spread:
    """Give each row its own entry: nine bytes.

    The inverse is stored because engines do not agree about the last bit of a quotient.
    """
    assert quantiser.x.shape is not None
    rows, ones = quantiser.x.shape[0], rank(quantiser.x) - 1
    if not isinstance(rows, int):
        return _of_open_rows(quantiser, tape, rows)
    entry = np.arange(rows)

    def stored(array: NDArray[Any]) -> ir.Value:
        value = keep_constants(tape.constants, array[entry % len(array)].reshape(rows, *[1] * ones))
        value.meta[PER_NODE] = True
        return value

    top = stored(quantiser.top.astype(np.uint8))
    wide = tape.per_row("Cast", top, rows=rows, ones=ones, to=int(FLOAT))
    return Spread(stored(quantiser.step), stored(quantiser.inverse), wide)


def _of_open_rows(quantiser: Quantiser, tape: QuantiserTape, rows: ir.SymbolicDim) -> Spread:
    """Give row i of any number of rows the entry i % n."""
    count = max(len(quantiser.step), len(quantiser.bits))
    size = tape.add("Squeeze", tape.size(quantiser.x), dtype=INT64)
    zero, one = np.array(0, np.int64), np.array(1, np.int64)
    row = tape.per_row("Range", zero, size, one, rows=rows, dtype=INT64)
    entry = tape.per_row("Mod", row, np.array(count, np.int64), rows=rows, dtype=INT64)
    return _looked_up(quantiser, tape, entry, np.arange(count))


def _of_groups(quantiser: Quantiser, tape: QuantiserTape) -> Spread:
    """Give each row the group whose reach is nearest to its largest magnitude, by binary search."""
    assert quantiser.x.shape is not None
    rows = quantiser.x.shape[0]
    reach, group = quantiser.groups()
    axes = numbers(*range(1, rank(quantiser.x)))
    size = tape.like_x(quantiser, "Abs", quantiser.x)
    largest = tape.per_row("ReduceMax", size, axes, rows=rows, keepdims=0)
    last = len(reach) - 1

    def op(op_type: str, *inputs: Operand, dtype: ir.DataType = INT32, **attributes: int) -> ir.Value:
        return tape.per_row(op_type, *inputs, rows=rows, dtype=dtype, **attributes)

    smaller = _count_smaller(tape, reach, largest, rows)
    above = op("Min", smaller, np.array(last, np.int32))
    below = op("Max", op("Sub", above, np.array(1, np.int32)), np.array(0, np.int32))
    near = [
        op("Abs", op("Sub", largest, op("Gather", reach, index, dtype=FLOAT, axis=0), dtype=FLOAT), dtype=FLOAT)
        for index in (below, above)
    ]
    lower = op("LessOrEqual", *near, dtype=BOOL)
    return _looked_up(quantiser, tape, op("Where", lower, below, above), group)


def _count_smaller(
    tape: QuantiserTape, reach: NDArray[np.float32], value: ir.Value, rows: int | ir.SymbolicDim
) -> ir.Value:
    """Count the numbers of an ascending array that are less than each value, int32 [rows].

    Every step of the search has an array of its own, of the numbers that it may meet.
    """

    def op(op_type: str, *inputs: Operand, dtype: ir.DataType = INT32, **attributes: int) -> ir.Value:
        return tape.per_row(op_type, *inputs, rows=rows, dtype=dtype, **attributes)

    depth = len(reach).bit_length()
    filled = np.full((1 << depth) - 1, np.inf, np.float32)
    filled[: len(reach)] = reach
    found: ir.Value | None = None
    for step in reversed(range(depth)):
        probes = filled[(1 << step) - 1 :: 1 << (step + 1)]
        probe: Operand = probes.reshape(()) if found is None else op("Gather", probes, found, dtype=FLOAT, axis=0)
        less = op("Cast", op("Less", probe, value, dtype=BOOL), to=int(INT32))
        found = less if found is None else op("Add", op("Add", found, found), less)
    assert found is not None
    return found


def _looked_up(quantiser: Quantiser, tape: QuantiserTape, index: ir.Value, entries: NDArray[np.int64]) -> Spread:
    """Take the entry of each row out of small tables."""
    assert quantiser.x.shape is not None
    rows, ones = quantiser.x.shape[0], rank(quantiser.x) - 1
    count = max(len(quantiser.step), len(quantiser.bits))

    def table(array: NDArray[np.float32]) -> ir.Value:
        entry = np.resize(array, count)[entries].reshape(-1, *[1] * ones)
        return tape.per_row("Gather", entry, index, rows=rows, ones=ones, axis=0)

    return Spread(table(quantiser.step), table(quantiser.inverse), table(quantiser.top))
