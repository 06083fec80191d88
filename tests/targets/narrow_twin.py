"""The operators that compute with few bits, in numpy, and models that hold them, run by onnx's reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = NDArray[Any]
Maybe = Array | None

_HALF = np.float32(0.5)


def narrow(x: Array, step: Array, bits: int, zero: int) -> Array:
    """Return packed rows, uint8 [rows, width or half of it]: an even column lies in the low bits."""
    top = np.float32(2**bits - 1 if zero == 0 else 2 ** (bits - 1) - 1)
    stored = (_levels(x, step, top, signed=zero > 0) + zero).astype(np.uint8)
    if bits == 8:
        return stored
    if stored.shape[1] % 2:
        stored = np.concatenate([stored, np.zeros((len(stored), 1), np.uint8)], axis=1)
    return stored[:, ::2] | (stored[:, 1::2] << 4)


def unpacked(rows: Array, width: int, bits: int, zero: int) -> Array:
    """Return the levels of packed rows, float64 [rows, width]."""
    if bits == 4:
        rows = np.stack([rows & 15, rows >> 4], axis=2).reshape(len(rows), -1)
    return rows[:, :width].astype(np.float64) - zero


def aggregate(
    x: Array, rowptr: Array, col: Array, step: Array, weight: Maybe, scale: Maybe, root: Maybe, bias: Maybe,
    reduce: str, bits: int, zero: int, activation: str, slope: float,
) -> Array:  # fmt: skip
    """Reduce levels, and finish what comes out."""
    values = unpacked(x, len(step), bits, zero)[col]
    if weight is not None:
        values = values * weight[:, None]
    out = np.zeros((len(rowptr) - 1, len(step)))
    for row in range(len(out)):
        slots = values[rowptr[row] : rowptr[row + 1]]
        if len(slots):
            out[row] = getattr(slots, reduce)(axis=0)
    return _finished(out * step, scale, root, bias, activation, slope)


def linear(x: Array, given: Mapping[str, Maybe], told: Mapping[str, Any]) -> tuple[Array, ...]:
    """Multiply quantised rows with quantised weights, and finish what comes out; besides, give it as levels of rows."""
    nearest = bool(told["nearest"])
    out = _product(x, given, "", bool(told["signed"]), nearest)
    if given["own"] is not None:
        out = out + _product(given["own"], given, "own_", bool(told["own_signed"]), nearest)
    out = _finished(out, given["scale"], given["root"], given["bias"], told["activation"], told["slope"])
    alone, signed = told["given"] == 1, bool(told["given_signed"])
    step = given["next_step"] if alone else given["given_step"]
    levels = () if not told["given"] else (given_rows(out, step, given["given_bits"], signed=signed),)
    if alone:
        return levels
    if given["next_step"] is None:
        return (out, *levels)
    return (narrow(out, given["next_step"], told["next_bits"], told["next_zero"]), *levels)


def given_rows(x: Array, step: Maybe, bits: Maybe, *, signed: bool) -> Array:
    """Return rows as levels, uint8 of their shape, 128 more where they have a sign."""
    assert step is not None
    assert bits is not None
    entry = np.arange(len(x)) % len(step)
    top = (2.0 ** (bits.astype(np.int64) - int(signed)) - 1).astype(np.float32)
    levels = _levels(x, step[entry][:, None], top[entry][:, None], signed=signed)
    return (levels + 128 * signed).astype(np.uint8)


def _product(x: Array, given: Mapping[str, Maybe], prefix: str, signed: bool, nearest: bool) -> Array:
    names = [f"{prefix}step" if prefix else "row_step", f"{prefix}bits" if prefix else "row_bits"]
    step, bits = (np.asarray(given[name]) for name in names)
    matrix, matrix_step = (np.asarray(given[f"{prefix}{name}"]) for name in ("matrix", "matrix_step"))
    top = (2.0 ** (bits.astype(np.int64) - int(signed)) - 1).astype(np.float32)
    entry = _nearest(x, step * top) if nearest else np.arange(len(x)) % len(step)
    levels = _levels(x, step[entry][:, None], top[entry][:, None], signed=signed)
    if x.dtype == np.uint8:
        levels = x.astype(np.float32) - 128 * signed
    total = levels.astype(np.int64) @ matrix.T.astype(np.int64)
    return (step[entry][:, None] * matrix_step) * total.astype(np.float32)


def _nearest(x: Array, reach: Array) -> Array:
    """Return the entry of each row; of equally near ones that with the lower reach, then the first."""
    distance = np.abs(np.abs(x).max(axis=1, initial=0)[:, None] - reach)
    order = np.argsort(reach, kind="stable")
    return np.asarray(order[distance[:, order].argmin(axis=1)])


def _levels(x: Array, step: Array, top: Array | np.float32, *, signed: bool) -> Array:
    z = x.astype(np.float32) * (np.float32(1) / step)
    if signed:
        return np.asarray(np.sign(z) * np.floor(np.minimum(np.abs(z), top) + _HALF))
    return np.asarray(np.floor(np.minimum(np.maximum(z, np.float32(0)), top) + _HALF))


def _finished(out: Array, scale: Maybe, root: Maybe, bias: Maybe, activation: str, slope: float) -> Array:
    out = out if scale is None else out * scale[:, None]
    out = out if root is None else out + root
    out = out if bias is None else out + bias
    if activation == "relu":
        out = np.maximum(out, 0)
    elif activation == "leaky_relu":
        out = np.where(out > 0, out, slope * out)
    elif activation == "elu":
        out = np.where(out > 0, out, np.expm1(np.minimum(out, 0)))
    return np.asarray(out, np.float32)


_LINEAR = (
    "row_step", "row_bits", "matrix", "matrix_step", "scale", "own", "own_step", "own_bits", "own_matrix",
    "own_matrix_step", "root", "bias", "next_step", "given_step", "given_bits",
)  # fmt: skip
_TOLD = {
    "signed": 0, "own_signed": 0, "nearest": 0, "next_bits": 0, "next_zero": 0, "activation": "identity", "slope": 0.0,
    "given": 0, "given_signed": 0,
}  # fmt: skip


class Narrow(OpRun):
    """See `narrow`."""

    op_domain = "gnnexport"

    def _run(
        self, x: Array, step: Array, given_step: Maybe = None, given_bits: Maybe = None, bits: int = 8, zero: int = 0,
        given: int = 0, given_signed: int = 0,
    ) -> tuple[Array, ...]:  # fmt: skip
        levels = (given_rows(x, given_step, given_bits, signed=bool(given_signed)),) if given else ()
        return (narrow(x, step, bits, zero), *levels)


def _aggregated(node: Any, inputs: tuple[Maybe, ...], told: Mapping[str, Any], prefix: str = "") -> Array:
    filled: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
    width = [told.get("reduce"), told.get("bits") or 8, told.get("zero") or 0]
    return aggregate(*filled, *width, told.get(f"{prefix}activation") or "identity", told.get(f"{prefix}slope") or 0.0)


def _layer(x: Array, inputs: tuple[Maybe, ...], told: Mapping[str, Any]) -> tuple[Array, ...]:
    given = dict.fromkeys(_LINEAR) | dict(zip(_LINEAR, inputs, strict=False))
    return linear(x, given, _TOLD | {name: value for name, value in told.items() if value is not None})


class NarrowAggregate(OpRun):
    """See `aggregate`."""

    op_domain = "gnnexport"

    def _run(
        self, *inputs: Maybe, reduce: Any = None, bits: Any = None, zero: Any = None, activation: Any = None,
        slope: Any = None,
    ) -> tuple[Array]:  # fmt: skip
        told = {"reduce": reduce, "bits": bits, "zero": zero, "activation": activation, "slope": slope}
        return (_aggregated(self, inputs, told),)


class NarrowLinear(OpRun):
    """See `linear`."""

    op_domain = "gnnexport"

    def _run(
        self, x: Array, *inputs: Maybe, signed: Any = None, own_signed: Any = None, nearest: Any = None,
        next_bits: Any = None, next_zero: Any = None, activation: Any = None, slope: Any = None, given: Any = None,
        given_signed: Any = None,
    ) -> tuple[Array, ...]:  # fmt: skip
        told = {
            "signed": signed, "own_signed": own_signed, "nearest": nearest, "next_bits": next_bits,
            "next_zero": next_zero, "activation": activation, "slope": slope, "given": given,
            "given_signed": given_signed,
        }  # fmt: skip
        return _layer(x, inputs, told)


class NarrowAggregateLinear(OpRun):
    """`aggregate`, then `linear`."""

    op_domain = "gnnexport"

    def _run(
        self, *inputs: Maybe, reduce: Any = None, bits: Any = None, zero: Any = None, sum_activation: Any = None,
        sum_slope: Any = None, signed: Any = None, own_signed: Any = None, nearest: Any = None, next_bits: Any = None,
        next_zero: Any = None, activation: Any = None, slope: Any = None, given: Any = None, given_signed: Any = None,
    ) -> tuple[Array, ...]:  # fmt: skip
        before = {
            "reduce": reduce,
            "bits": bits,
            "zero": zero,
            "sum_activation": sum_activation,
            "sum_slope": sum_slope,
        }
        told = {
            "signed": signed, "own_signed": own_signed, "nearest": nearest, "next_bits": next_bits,
            "next_zero": next_zero, "activation": activation, "slope": slope, "given": given,
            "given_signed": given_signed,
        }  # fmt: skip
        return _layer(_aggregated(self, inputs[:8], before, "sum_"), inputs[8:], told)


TWINS = [Narrow, NarrowAggregate, NarrowLinear, NarrowAggregateLinear]


def run_twin(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Array:
    """Run a model of standard operators and of those above."""
    given = {item.name: feeds[item.name] for item in model.graph.input}
    return np.asarray(ReferenceEvaluator(model, new_ops=TWINS).run(None, given)[0])
