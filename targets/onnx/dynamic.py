"""What rounds to levels of a step taken at run time, in standard operators: the same numbers as in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxscript

from gnnexport.program.dialect.quantize import LEAST_STEP

op: Any = onnxscript.opset20


def quantize_dynamic(x: Any, bits: int, signed: bool, by: str) -> Any:
    """Record `gnn::quantize_dynamic`, whose docstring says what it computes."""
    rank = len(x.shape)
    top = _number(2 ** (bits - int(signed)) - 1)
    axes = op.Constant(value_ints=list(range(0 if by == "tensor" else 1, rank)))
    largest = op.ReduceMax(op.Abs(x), axes, keepdims=1)
    step = op.Max(op.Div(largest, top), _number(LEAST_STEP))
    z = op.Mul(x, op.Reciprocal(step))
    if signed:
        level = op.Mul(op.Sign(z), _rounded(op.Min(op.Abs(z), top)))
    else:
        level = _rounded(op.Min(op.Max(z, _number(0)), top))
    return op.Mul(level, step)


def _rounded(magnitude: Any) -> Any:
    return op.Floor(op.Add(magnitude, _number(0.5)))


def _number(value: float) -> Any:
    return op.Constant(value_float=float(np.float32(value)))
