"""Record nodes whose sizes are known only when the model runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx.tape import Tape

Operand = ir.Value | NDArray[Any]

INT64 = ir.DataType.INT64
BOOL = ir.DataType.BOOL


class OpenTape(Tape):
    """A tape that says no shapes; indices are int64."""

    def add(self, op_type: str, *inputs: Operand, dtype: ir.DataType | None = None, **attributes: Any) -> ir.Value:
        """Record a node with one output, of the element type of the first input that is no array unless told."""
        if dtype is None:
            dtype = next(item.dtype for item in inputs if isinstance(item, ir.Value))
            assert dtype is not None
        return self.record(op_type, inputs, [dtype], None, **attributes)[0]

    def choose(
        self, condition: ir.Value, then: Callable[[OpenTape], ir.Value], other: Callable[[OpenTape], ir.Value]
    ) -> ir.Value:
        """Record an `If` of two branches, each of which may read all that was recorded before."""
        branches = {}
        for name, build in (("then_branch", then), ("else_branch", other)):
            tape = OpenTape(self.constants, f"{self.prefix}_{len(self.nodes)}_{name[:4]}")
            out = build(tape)
            if not tape.nodes or out not in tape.nodes[-1].outputs:
                out = tape.add("Identity", out)
            branches[name] = ir.Graph([], [out], nodes=tape.nodes, name=f"{tape.prefix}_branch")
        out_type = branches["then_branch"].outputs[0].dtype
        assert out_type is not None
        return self.record("If", [condition], [out_type], None, **branches)[0]

    def size(self, value: ir.Value, axis: int = 0) -> ir.Value:
        """Return one size of a value, int64 [1]."""
        return self.add("Shape", value, dtype=INT64, start=axis, end=axis + 1)

    def one_dimensional(self, value: Operand) -> ir.Value:
        """Return a number, whatever its rank, as int64 [1]."""
        return self.add("Reshape", value, numbers(-1), dtype=INT64)

    def filled(self, like: ir.DataType, number: float, shape: ir.Value) -> ir.Value:
        """Return a tensor of a shape, int64 [rank], with the same number everywhere."""
        value = ir.tensor(np.array([number], like.numpy()))
        return self.add("ConstantOfShape", shape, dtype=like, value=value)

    def to_rank(self, value: ir.Value, rank: int) -> ir.Value:
        """Add sizes of one behind [rows]."""
        return value if rank <= 1 else self.add("Unsqueeze", value, numbers(*range(1, rank)))


def numbers(*values: int) -> NDArray[np.int64]:
    """Return int64 [count]."""
    return np.array(values, np.int64)


def rank(value: ir.Value) -> int:
    """Return the number of dimensions of a value."""
    assert value.shape is not None, value.name
    return len(value.shape)


def float_type(value: ir.Value) -> ir.DataType:
    """Return the element type of a value."""
    assert value.dtype is not None, value.name
    return value.dtype
