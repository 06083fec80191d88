"""Lower the dialect in a model for graphs of any size: the structure is computed inside the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from gnnexport.errors import UnsupportedError
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.open_tape import BOOL, INT64, OpenTape, Operand, float_type, numbers, rank
from gnnexport.targets.onnx.operators import dialect_nodes
from gnnexport.targets.onnx.quantised_standard import expand_quantisers
from gnnexport.targets.onnx.quantised_weights import fold_weights
from gnnexport.targets.onnx.scatter import NEUTRAL, REDUCTION
from gnnexport.targets.onnx.softmax import expand_softmax
from gnnexport.targets.onnx.tables import Hubs, Tables, build, given, pointers
from gnnexport.targets.onnx.tape import Constants

Form = Literal["ell", "scatter"]
FORMS = ("ell", "scatter")
"""Lowerings that need no graph that is known."""

ROW = "row"
"""Name of the input that holds the destination of each slot, where a request brings its structure sorted."""

_REDUCE = {"sum": "ReduceSum", "mean": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd"}


def lower_graphs(model: ir.Model, aggregate: Form = "ell", *, fallback: bool = True, branches: bool = True) -> ir.Model:
    """Return a copy of a model in standard operators.

    Args:
        model: as `translate_graphs` gives it.
        aggregate: `ell` reduces tables of neighbours, `scatter` writes messages to their destinations.
        fallback: with `ell`, scatter where hubs would make the tables too large. Without it the model has neither
            `If` nor a scatter with a reduction beyond what the Program itself had.
        branches: whether the fallback may stand in an `If`, which costs nothing where it is not taken.

    Raises:
        UnsupportedError: a structure that no operator of the dialect built.
    """
    model = model.clone()
    fold_weights(model.graph)
    expand_quantisers(model.graph)
    expand_softmax(model.graph)
    hubs: Hubs = "grow" if not fallback or aggregate == "scatter" else "branch" if branches else "blend"
    lowering = _Lowering(model.graph, aggregate, hubs)
    for node in dialect_nodes(model.graph):
        lowering.lower(node)
    for tidy in (passes.RemoveUnusedNodesPass(), passes.CommonSubexpressionEliminationPass()):
        tidy(model)
    return model


@dataclass
class _Lowering:
    """Lower one graph, node by node.

    Args:
        graph: changed in place.
        form: what is asked for.
        hubs: how tables that would be too large give way to scatter.
    """

    graph: ir.Graph
    form: Form
    hubs: Hubs
    constants: Constants = field(init=False)
    _tables: dict[ir.Value, Tables] = field(default_factory=dict)
    _padded: dict[tuple[ir.Value, float], ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = Constants(self.graph)

    def lower(self, node: ir.Node) -> None:
        """Put standard operators in the place of one node."""
        tape = OpenTape(self.constants, f"{node.outputs[0].name}.at")
        results = self._csr(tape, node) if node.op_type == schemas.CSR else [self._value(tape, node)]
        if not tape.nodes or tape.nodes[-1].outputs[0] is not results[-1]:
            results[-1] = tape.add("Identity", results[-1])
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], tape.nodes, node.outputs, results)

    def _csr(self, tape: OpenTape, node: ir.Node) -> list[ir.Value]:
        dst, num_dst = node.inputs
        assert dst is not None
        assert num_dst is not None
        tables = build(tape, dst, num_dst, self.hubs)
        rowptr = pointers(tape, tables)
        self._tables[rowptr] = tables
        return [rowptr, tape.add("Identity", tables.perm)]

    def _value(self, tape: OpenTape, node: ir.Node) -> ir.Value:
        x = node.inputs[0]
        assert x is not None
        if node.op_type == schemas.GATHER_SOURCE:
            assert node.inputs[1] is not None
            return tape.add("Gather", x, node.inputs[1], axis=0)
        tables = self._of(tape, node)
        if node.op_type == schemas.GATHER_DESTINATION:
            return tape.add("Gather", x, tables.row, axis=0)
        return self._reduction(tape, Reduction.of(node), tables)

    def _of(self, tape: OpenTape, node: ir.Node) -> Tables:
        rowptr = node.inputs[1]
        assert rowptr is not None
        if rowptr not in self._tables and rowptr in self.graph.inputs:
            row = next(value for value in self.graph.inputs if value.name == ROW)
            self._tables[rowptr] = given(tape, rowptr, row, self.hubs)
        if rowptr not in self._tables:
            what = f"'{node.name}' reduces over pointers that were not built from destinations"
            raise UnsupportedError.at("onnx", what, "Export the model for one graph (--mode=full)")
        return self._tables[rowptr]

    def _reduction(self, tape: OpenTape, op: Reduction, tables: Tables) -> ir.Value:
        if self.form == "scatter":
            return finished(tape, op, tables, scatter(tape, op, tables))
        weight = None if op.weight is None else self._pad(tape, op.weight, 0.0)
        padded = self._pad(tape, op.x, NEUTRAL.get(op.reduce, 0.0))
        cells = tables.slots if op.col is None else tables.sources(tape, op.col, self._rows(tape, op.x))

        def table(inner: OpenTape) -> ir.Value:
            return reduce_table(inner, op, tables, padded, weight, cells)

        if tables.fits is not None:
            out = tape.choose(tables.fits, table, lambda inner: scatter(inner, op, tables))
        else:
            out = table(tape)
        if tables.left is not None:
            out = scatter(tape, op, tables, onto=out)
        return finished(tape, op, tables, out)

    def _rows(self, tape: OpenTape, value: ir.Value) -> ir.Value:
        """Return the number of rows of a value, read off an input that has as many, so that it is known at once."""
        assert value.shape is not None
        for item in self.graph.inputs:
            for axis, size in enumerate(item.shape or ()):
                if isinstance(size, ir.SymbolicDim) and size.value is not None and size == value.shape[0]:
                    return tape.size(item, axis)
        return tape.size(value)

    def _pad(self, tape: OpenTape, value: ir.Value, number: float) -> ir.Value:
        """Return a value with one more row, of one number everywhere."""
        if (value, number) not in self._padded:
            assert value.shape is not None
            tail = [size for size in list(value.shape)[1:] if isinstance(size, int)]
            if len(tail) < rank(value) - 1:
                shape = tape.add("Concat", numbers(1), tape.add("Shape", value, dtype=INT64, start=1), axis=0)
                extra: Operand = tape.filled(float_type(value), number, shape)
            else:
                extra = np.full((1, *tail), number, float_type(value).numpy())
            self._padded[value, number] = tape.add("Concat", value, extra, axis=0)
        return self._padded[value, number]


@dataclass(frozen=True)
class Reduction:
    """One reduction.

    Args:
        x: node features [num_src, ...], or edge values [num_slots, ...] where there is no `col`.
        col: row of `x` that each slot reads, int64 [num_slots].
        weight: of each slot, [num_slots] or [num_slots, heads], only with `sum`.
        reduce: `sum`, `mean`, `max`, `min` or `prod`.
    """

    x: ir.Value
    col: ir.Value | None
    weight: ir.Value | None
    reduce: str

    @classmethod
    def of(cls, node: ir.Node) -> Reduction:
        """Read an operator of the dialect that reduces."""
        inputs = [*node.inputs, None, None]
        x, col = inputs[0], inputs[2] if node.op_type == schemas.AGGREGATE else None
        assert x is not None
        return cls(x, col, inputs[3], node.attributes["reduce"].as_string())


def reduce_table(
    tape: OpenTape, op: Reduction, tables: Tables, x: ir.Value, weight: ir.Value | None, cells: ir.Value
) -> ir.Value:
    """Record gather and reduce over a table of cells.

    Args:
        tape: takes the operators.
        op: the reduction.
        tables: its structure.
        x: `op.x` with a neutral row at its end.
        weight: `op.weight` with a zero at its end.
        cells: row of `x` for each cell, [num_dst, largest degree].
    """
    gathered = tape.add("Gather", x, cells, axis=0)
    if weight is not None:
        assert op.weight is not None
        factor = tape.add("Gather", weight, tables.slots, axis=0)
        if rank(op.x) == 2 and rank(op.weight) == 1:
            product = tape.add("MatMul", tape.add("Unsqueeze", factor, numbers(1)), gathered)
            return tape.add("Squeeze", product, numbers(1))
        gathered = tape.add("Mul", gathered, _lift(tape, factor, 1 + rank(op.weight), 1 + rank(op.x)))
    return tape.add(_REDUCE[op.reduce], gathered, numbers(1), keepdims=0)


def scatter(tape: OpenTape, op: Reduction, tables: Tables, onto: ir.Value | None = None) -> ir.Value:
    """Record the scatter of one message after the other, onto neutral rows or, of those left, onto what is given."""

    def left(value: ir.Value) -> ir.Value:
        return value if tables.left is None else tape.add("Slice", value, numbers(0), tables.left, numbers(0))

    messages = left(op.x) if op.col is None else tape.add("Gather", op.x, left(op.col), axis=0)
    if op.weight is not None:
        messages = tape.add("Mul", messages, _lift(tape, left(op.weight), rank(op.weight), rank(op.x)))
    shape = tape.add("Shape", messages, dtype=INT64)
    index = tape.add("Expand", tape.to_rank(left(tables.row), rank(op.x)), shape)
    if onto is None:
        rows = tape.add("Concat", tables.num_dst, tape.add("Shape", messages, dtype=INT64, start=1), axis=0)
        onto = tape.filled(float_type(op.x), NEUTRAL.get(op.reduce, 0.0), rows)
    return tape.add("ScatterElements", onto, index, messages, axis=0, reduction=REDUCTION[op.reduce])


def _lift(tape: OpenTape, factor: ir.Value, dimensions: int, wanted: int) -> ir.Value:
    """Add sizes of one behind a factor, so that it multiplies what has more dimensions."""
    return factor if dimensions >= wanted else tape.add("Unsqueeze", factor, numbers(*range(dimensions, wanted)))


def finished(tape: OpenTape, op: Reduction, tables: Tables, out: ir.Value) -> ir.Value:
    """Divide a sum for the mean; give zero to rows without slots, which hold no largest or smallest."""
    if op.reduce in ("sum", "prod"):
        return out
    degree = tape.to_rank(tables.degree, rank(op.x))
    dtype = float_type(op.x)
    if op.reduce == "mean":
        count = tape.add("Max", degree, numbers(1).reshape((1,) * rank(op.x)))
        return tape.add("Div", out, tape.add("Cast", count, dtype=dtype, to=int(dtype)))
    has_slots = tape.add("Greater", degree, numbers(0).reshape((1,) * rank(op.x)), dtype=BOOL)
    return tape.add("Where", has_slots, out, np.zeros((), dtype.numpy()), dtype=dtype)
