"""The kernels' meaning in plain numpy: sums in double precision, and how far rounding to floats may lead from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

EPS = 2.0**-24
"""What rounding to float32 moves a number by at most, relative to it."""

TINY = 1e-37
"""Exponentials below it are 0 in the kernels."""

SUBNORMAL = 2.0**-149
"""The least float32 there is."""

FLUSHED = 2.0**-125
"""What AMX tiles may lose of a product, as `kernels.h` has it."""


@dataclass(frozen=True)
class Graph:
    """A structure by destination; `col` `None` where slot s reads row s."""

    rowptr: Array
    col: Array | None
    num_src: int

    @property
    def num_rows(self) -> int:
        """Count the destinations."""
        return len(self.rowptr) - 1

    @property
    def num_slots(self) -> int:
        """Count the edges."""
        return int(self.rowptr[-1])

    @property
    def sources(self) -> Array:
        """Return the source of each slot."""
        return np.arange(self.num_slots) if self.col is None else self.col

    @property
    def rows(self) -> Array:
        """Return the destination of each slot."""
        return np.repeat(np.arange(self.num_rows), np.diff(self.rowptr))

    def spans(self) -> list[tuple[int, int]]:
        """Return where the slots of each row begin and end."""
        return list(zip(self.rowptr[:-1].tolist(), self.rowptr[1:].tolist(), strict=True))


@dataclass(frozen=True)
class Answer:
    """What is expected, and by how much float32 may miss it: rounding errors of every step, added up."""

    value: Array
    bound: Array

    def check(self, got: Array) -> None:
        """Fail where `got` is further away; what is no number or infinite has to be so in both."""
        finite = np.isfinite(self.value)
        np.testing.assert_array_equal(got[~finite], self.value[~finite])
        wrong = ~(np.abs(got[finite] - self.value[finite]) <= self.bound[finite])
        assert not wrong.any(), (got[finite][wrong][:5], self.value[finite][wrong][:5], self.bound[finite][wrong][:5])


@dataclass(frozen=True)
class After:
    """What follows a reduction: `activation(reduced + root + bias)`."""

    root: Array | None = None
    bias: Array | None = None
    activation: str = "identity"
    slope: float = 0.0

    def of(self, reduced: Answer) -> Answer:
        """Apply it; every activation has a slope of at most one, or `slope`."""
        value, bound = reduced.value, reduced.bound
        for term in (self.root, self.bias):
            if term is not None:
                bound = bound + EPS * (2 * np.abs(value) + np.abs(term))
                value = value + term
        if self.activation == "relu":
            return Answer(np.where(value < 0, 0.0, value), bound)
        if self.activation == "leaky_relu":
            return Answer(leaky(value, self.slope), (bound + EPS * np.abs(value)) * max(1.0, self.slope))
        if self.activation == "elu":
            # exp(v) - 1 is taken as it stands: what it loses counts against 1, not against the result.
            return Answer(np.where(value < 0, np.expm1(np.minimum(value, 0.0)), value), bound + 6 * EPS)
        return reduced if value is reduced.value else Answer(value, bound)


def leaky(value: Array, slope: float) -> Array:
    """Multiply what is negative by `slope`."""
    return np.where(value < 0, value * np.float64(np.float32(slope)), value)


def aggregate(
    graph: Graph,
    x: Array,
    *,
    reduce: str = "sum",
    weight: Array | None = None,
    row_scale: Array | None = None,
    column_scale: Array | None = None,
    after: After | None = None,
) -> Answer:
    """Reduce weight[s] * x[col[s]] over the slots of each row; `weight` [num_slots, heads] is shared evenly."""
    messages = x.astype(np.float64)[graph.sources]
    if row_scale is not None:
        messages = messages * row_scale[graph.sources][:, None]
    if weight is not None:
        messages = messages * np.repeat(weight, x.shape[1] // weight.shape[1], axis=1)
    value = np.full((graph.num_rows, x.shape[1]), float(reduce == "prod"))
    bound = np.zeros_like(value)
    for row, (begin, end) in enumerate(graph.spans()):
        if end > begin:
            value[row], bound[row] = _reduced(messages[begin:end], reduce)
    if column_scale is not None:
        value = value * column_scale
        bound = bound * np.abs(column_scale) + EPS * np.abs(value)
    return (after or After()).of(Answer(value, bound))


def _reduced(messages: Array, reduce: str) -> tuple[Array, Array]:
    """Reduce messages [slots, width]; each is rounded up to three times, and each partial result once."""
    slots = len(messages)
    steps = (slots + 4) * EPS
    if reduce in ("max", "min"):
        extreme: Callable[..., Array] = np.max if reduce == "max" else np.min
        return extreme(messages, axis=0), np.zeros(messages.shape[1])
    if reduce == "prod":
        product = messages.prod(axis=0)
        return product, steps * np.abs(product)
    divisor = slots if reduce == "mean" else 1
    with np.errstate(invalid="ignore"):
        return messages.sum(axis=0) / divisor, steps * np.abs(messages).sum(axis=0) / divisor


def linear(factors: list[tuple[Answer, Array]], path: str, after: After | None = None) -> Answer:
    """Add products of rows [num_rows, width] with matrices [out_width, width].

    As a float32 sum of n float32 products errs by at most n * EPS of the sum of their sizes; the parts that tiles leave
    out, and the order of their sums, count as four more. What is subnormal has an error that is no part of it.
    """
    rows, out_width = len(factors[0][0].value), len(factors[0][1])
    value, size, bound = np.zeros((3, rows, out_width))
    for reduced, matrix in factors:
        weights = matrix.astype(np.float64)
        sizes = np.abs(reduced.value) + reduced.bound
        value = value + np.einsum("rk,ok->ro", reduced.value, weights)
        size = size + np.einsum("rk,ok->ro", sizes, np.abs(weights))
        bound = bound + np.einsum("rk,ok->ro", reduced.bound, np.abs(weights))
        if path == "amx":
            bound = bound + FLUSHED * (sizes.sum(axis=1)[:, None] + np.abs(weights).sum(axis=1) + 6 * matrix.shape[1])
        else:
            bound = bound + SUBNORMAL * matrix.shape[1]
    products = sum(matrix.shape[1] for _, matrix in factors)
    return (after or After()).of(Answer(value, bound + (products + 4) * EPS * size))


def exactly(rows: Array) -> Answer:
    """Take rows as they are."""
    return Answer(rows.astype(np.float64), np.zeros(rows.shape))


def integer_sums(graph: Graph, x: Array, reduce: str, column_scale: Array | None) -> Array:
    """Add int8 rows as integers, and scale once, in float32: these are the kernel's bits."""
    totals = np.zeros((graph.num_rows, x.shape[1]), np.int64)
    for row, (begin, end) in enumerate(graph.spans()):
        totals[row] = x[graph.sources[begin:end]].sum(axis=0, dtype=np.int64)
    out = totals.astype(np.float32)
    if reduce == "mean":
        out /= np.maximum(np.diff(graph.rowptr), 1).astype(np.float32)[:, None]
    return out if column_scale is None else out * column_scale


def scores(
    graph: Graph,
    heads: int,
    score: str,
    *,
    source: Array | None = None,
    destination: Array | None = None,
    edge: Array | None = None,
    att: Array | None = None,
    slope: float = 0.0,
    scale: float = 1.0,
) -> Answer:
    """Score each slot and head."""
    if score == "given":
        assert edge is not None
        return Answer(edge.astype(np.float64), np.zeros(edge.shape))
    assert source is not None
    assert destination is not None
    of_edge = np.zeros((1, source.shape[1])) if edge is None else edge.astype(np.float64)
    left, right = source.astype(np.float64)[graph.sources], destination.astype(np.float64)[graph.rows]
    size = np.abs(left) + np.abs(right) + np.abs(of_edge)
    if score == "gat":
        return Answer(leaky(left + right + of_edge, slope), 3 * EPS * size * max(1.0, slope))
    if score == "gatv2":
        assert att is not None
        terms, sizes = leaky(left + right + of_edge, slope) * att, size * np.abs(att) * max(1.0, slope)
    else:
        scale = float(np.float32(scale))
        terms, sizes = scale * right * (left + of_edge), abs(scale) * np.abs(right) * (np.abs(left) + np.abs(of_edge))
    shape = (graph.num_slots, heads, source.shape[1] // heads)
    return Answer(terms.reshape(shape).sum(axis=2), (shape[2] + 6) * EPS * sizes.reshape(shape).sum(axis=2))


def softmax(graph: Graph, given: Answer) -> Answer:
    """Normalise scores over the slots of each row.

    An error d of a score is a relative error d of its exponential; the total has the same, and one more a slot.
    """
    value, bound = np.zeros_like(given.value), np.zeros_like(given.value)
    for begin, end in graph.spans():
        if end == begin:
            continue
        part = given.value[begin:end]
        with np.errstate(invalid="ignore"):
            below = part - part.max(axis=0)
            power = np.exp(below)
            value[begin:end] = power / power.sum(axis=0)
        d = given.bound[begin:end].max(axis=0) + EPS * np.minimum(np.abs(np.nan_to_num(below)), 88).max(axis=0)
        bound[begin:end] = value[begin:end] * (4 * d + (2 * (end - begin) + 24) * EPS) + TINY
    return Answer(value, bound)


def attention(graph: Graph, x: Array, weights: Answer, edge_value: Array | None, after: After | None = None) -> Answer:
    """Add x[col[s]] + edge_value[s] over the slots of each row, weighed by the softmax `weights` [num_slots, heads]."""
    channels = x.shape[1] // weights.value.shape[1]
    message = x.astype(np.float64)[graph.sources]
    size = np.abs(message)
    if edge_value is not None:
        message, size = message + edge_value, size + np.abs(edge_value)
    share, error = (np.repeat(part, channels, axis=1) for part in (weights.value, weights.bound))
    value = np.zeros((graph.num_rows, x.shape[1]))
    bound = np.zeros_like(value)
    for row, (begin, end) in enumerate(graph.spans()):
        value[row] = (share[begin:end] * message[begin:end]).sum(axis=0)
        steps = (error[begin:end] + share[begin:end] * (end - begin + 8) * EPS) * size[begin:end]
        bound[row] = steps.sum(axis=0)
    return (after or After()).of(Answer(value, bound))


def build_csr(dst: Array, num_rows: int) -> tuple[Array, Array]:
    """Return `rowptr` and the edge in each slot, sorted by destination and stable in the order of edges."""
    rowptr = np.concatenate([[0], np.cumsum(np.bincount(dst, minlength=num_rows))])
    return rowptr, np.argsort(dst, kind="stable")
