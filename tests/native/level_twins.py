"""Levels, and what the kernels make of them, in plain numpy: the same float32 operations in the same order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tests.native.twins import Array, Graph

ONE, HALF = np.float32(1), np.float32(0.5)


def levels(x: Array, step: Array, bits: Array | int, is_signed: bool) -> Array:
    """Round x to whole multiples of `step` below what `bits` hold; return the multiples."""
    most = (2.0 ** (np.asarray(bits) - is_signed) - 1).astype(np.float32)
    z = (x * (ONE / step)).astype(np.float32)
    if not is_signed:
        return np.floor(np.minimum(np.maximum(z, np.float32(0)), most) + HALF)
    return np.sign(z) * np.floor(np.minimum(np.abs(z), most) + HALF)


def stored(whole: Array, bits: int, zero: int) -> Array:
    """Lay levels [rows, width] out in bytes."""
    numbers = (whole + zero).astype(np.uint8)
    if bits == 8:
        return numbers
    even = np.pad(numbers, ((0, 0), (0, numbers.shape[1] % 2)))
    return np.ascontiguousarray(even[:, ::2] | even[:, 1::2] << 4)


def narrow(x: Array, step: Array, bits: int, zero: int) -> Array:
    """Turn float32 [rows, width] into levels, each column by its step."""
    return stored(levels(x, step, bits, zero > 0), bits, zero)


@dataclass(frozen=True)
class After:
    """What follows: `activation(scale * value + root + bias)`, and how it leaves narrow."""

    scale: Array | None = None
    root: Array | None = None
    bias: Array | None = None
    activation: str = "identity"
    slope: float = 0.25
    step: Array | None = None
    bits: int = 8
    zero: int = 0

    def of(self, value: Array) -> Array:
        """Finish float32 [rows, width]."""
        value = value if self.scale is None else value * self.scale[:, None]
        for term in (self.root, self.bias):
            value = value if term is None else value + term
        if self.activation == "relu":
            value = np.where(value < 0, np.float32(0), value)
        if self.activation == "leaky_relu":
            value = np.where(value < 0, value * np.float32(self.slope), value)
        return value if self.step is None else narrow(value, self.step, self.bits, self.zero)

    def wide(self) -> After:
        """Return the same, as floats."""
        return replace(self, step=None)


def aggregate(
    graph: Graph,
    whole: Array,
    step: Array | None = None,
    *,
    reduce: str = "sum",
    weight: Array | None = None,
    row_scale: Array | None = None,
) -> Array:
    """Reduce levels [num_src, width] over the slots of each row, and scale the result.

    Weighted rows are added in float32 one after the other, as the kernels do in rows that no tasks share.
    """
    weighted = weight is not None or row_scale is not None
    out = np.zeros((graph.num_rows, whole.shape[1]), np.float32)
    factor = np.ones(graph.num_slots, np.float32) if weight is None else weight
    factor = factor if row_scale is None else factor * row_scale[graph.sources]
    for row, (begin, end) in enumerate(graph.spans()):
        part = whole[graph.sources[begin:end]]
        if end == begin:
            continue
        if weighted:
            for term in part.astype(np.float32) * factor[begin:end, None]:
                out[row] += term
        elif reduce in ("max", "min"):
            out[row] = part.max(axis=0) if reduce == "max" else part.min(axis=0)
        else:
            out[row] = part.astype(np.int64).sum(axis=0)
    if reduce == "mean":
        out = out * (ONE / np.maximum(np.diff(graph.rowptr), 1).astype(np.float32))[:, None]
    return out if step is None else out * step


@dataclass(frozen=True)
class Quantiser:
    """How rows turn into levels: row i by entry i % count, or by the entry that is nearest."""

    step: Array
    bits: Array
    is_signed: bool
    nearest: bool = False

    def of(self, x: Array) -> tuple[Array, Array]:
        """Return the step of each row [rows], and its levels [rows, width]."""
        entry = self._nearest(x) if self.nearest else np.arange(len(x)) % len(self.step)
        step = self.step[entry]
        return step, levels(x, step[:, None], self.bits[entry][:, None].astype(int), self.is_signed)

    def _nearest(self, x: Array) -> Array:
        reach = self.step * (2.0 ** (self.bits.astype(int) - self.is_signed) - 1).astype(np.float32)
        table, first = np.unique(reach, return_index=True)
        size = np.abs(x).max(axis=1, initial=0)
        above = np.minimum(np.searchsorted(table, size), len(table) - 1)
        below = np.maximum(above - 1, 0)
        lower = np.abs(size - table[below]) <= np.abs(size - table[above])
        return first[np.where(lower, below, above)]


def product(x: Array, quantiser: Quantiser, matrix: Array, step: Array) -> Array:
    """Multiply rows as levels with int8 [out_width, width], whose rows have their steps."""
    of_rows, whole = quantiser.of(x)
    total = whole.astype(np.int64) @ matrix.T.astype(np.int64)
    return (of_rows[:, None] * step) * total.astype(np.float32)
