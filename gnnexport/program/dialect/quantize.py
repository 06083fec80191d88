"""The dialect's ops that round values to few levels, with the gradients of A2Q (Zhu et al., ICLR 2023).

A level is the same number everywhere, bit for bit in float32, with `inv = 1 / step`, `z = x * inv` and `b` the bits,
rounded and kept from 1 to 8:

- signed, `Q = 2^(b-1) - 1`: `n = sign(z) * floor(min(|z|, Q) + 0.5)`
- unsigned, `Q = 2^b - 1`: `n = floor(min(max(z, 0), Q) + 0.5)`

and the result is `n * step`. A signed row of one bit is all zero.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LEAST_STEP = 1e-8
MOST_BITS = 8

_Gradients = tuple[Tensor, Tensor | None, Tensor | None, None, None]


def whole_bits(bits: Tensor) -> Tensor:
    """Return the widths that are used: whole numbers from 1 to 8."""
    return bits.clamp(1, MOST_BITS).round()


def largest_level(bits: Tensor, signed: bool) -> Tensor:
    """Return Q, the largest level of each width; the smallest is -Q or, unsigned, 0."""
    return _power(whole_bits(bits) - (1 if signed else 0)) - 1


def _power(exponent: Tensor) -> Tensor:
    """Return two to whole numbers, exactly."""
    return torch.bitwise_left_shift(torch.ones_like(exponent, dtype=torch.int64), exponent.long()).to(exponent.dtype)


def reach(step: Tensor, bits: Tensor, signed: bool) -> Tensor:
    """Return the largest magnitude that each pair of step and width represents."""
    return step.clamp(min=LEAST_STEP) * largest_level(bits, signed)


def nearest_table(step: Tensor, bits: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Sort groups by their reach; of groups with the same reach only the first is ever chosen.

    Returns:
        Reach, ascending, and the group that has it, int64; as many as there are different ones.
    """
    reaches = reach(step, bits, signed)
    order = torch.argsort(reaches, stable=True)
    found = reaches[order]
    first = torch.ones_like(found, dtype=torch.bool)
    first[1:] = found[1:] != found[:-1]
    return found[first], order[first]


def nearest_groups(x: Tensor, step: Tensor, bits: Tensor, signed: bool) -> Tensor:
    """Return the group of each row, int64 [rows]: its reach is nearest to the row's largest magnitude.

    Of two equally near ones it is the lower. The search is binary: the two reaches around the magnitude are compared.
    """
    table, group = nearest_table(step, bits, signed)
    largest = _matrix(x).abs().amax(1) if x[:1].numel() else x.new_zeros(x.shape[0])
    above = torch.searchsorted(table.to(x.dtype), largest).clamp(max=len(table) - 1)
    below = (above - 1).clamp(min=0)
    lower = (largest - table[below]).abs() <= (largest - table[above]).abs()
    return group[torch.where(lower, below, above)]


def levels(x: Tensor, step: Tensor, bits: Tensor, signed: bool) -> Tensor:
    """Return `n`, whole numbers in floating point; step and bits are broadcast against `x`."""
    z = x * step.clamp(min=LEAST_STEP).reciprocal()
    top = largest_level(bits, signed)
    if signed:
        return z.sign() * (torch.minimum(z.abs(), top) + 0.5).floor()
    return (torch.minimum(z.clamp(min=0), top) + 0.5).floor()


def _matrix(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def along_rows(values: Tensor, x: Tensor) -> Tensor:
    """Return values as they are broadcast against the rows of `x`, taken in turn where there are fewer."""
    count, rows = values.shape[0], x.shape[0]
    if count not in (1, rows):
        values = values.index_select(0, torch.arange(rows) % count)
    return values.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def along_columns(values: Tensor, x: Tensor) -> Tensor:
    """Return values as they are broadcast against the columns of `x`, which are all its dimensions but the first."""
    return values.to(x.dtype).view(x.shape[1:] if values.numel() > 1 else (1,) * (x.dim() - 1))


def _quantised(x: Tensor, step: Tensor, bits: Tensor, signed: bool) -> Tensor:
    return levels(x, step, bits, signed) * step.clamp(min=LEAST_STEP)


def _differentiated(
    grad: Tensor, x: Tensor, step: Tensor, bits: Tensor, signed: bool, share: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, and of step and bits entry by entry.

    Args:
        grad: of the result.
        x: that was quantised.
        step: as it is broadcast against `x`.
        bits: likewise.
        signed: as in the op.
        share: weight of an entry in the quantiser's own error, which then takes the place of the task's; else `None`.
    """
    step = step.clamp(min=LEAST_STEP)
    z, n = x * step.reciprocal(), levels(x, step, bits, signed)
    top = largest_level(bits, signed)
    inside = (z.abs() <= top) if signed else ((z >= 0) & (z <= top))
    sign = z.sign() if signed else z.clamp(min=0).sign()
    of_step = torch.where(inside, n - z, sign * top)
    slope = (top + 1) * math.log(2)
    of_bits = torch.where(inside, torch.zeros_like(z), sign * slope * step)
    outer = grad if share is None else (n * step - x).sign() * share
    return grad * inside, outer * of_step, outer * of_bits


def _into_rows(values: Tensor, index: Tensor | None, parameter: Tensor) -> Tensor:
    """Sum entries of rows into the parameter's entry of each row."""
    of_row = _matrix(values).sum(1)
    if index is None:
        index = torch.arange(len(of_row)) % len(parameter)
    return torch.zeros_like(parameter).index_add_(0, index, of_row.to(parameter.dtype))


def _into_columns(values: Tensor, parameter: Tensor) -> Tensor:
    total = _matrix(values).sum(0).to(parameter.dtype)
    return total if parameter.numel() > 1 else total.sum().reshape(1)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, step, bits, ctx.signed, ctx.local = inputs
    ctx.save_for_backward(x, step, bits)


def _row_share(x: Tensor) -> float:
    return 1 / max(math.prod(x.shape[1:]), 1)


@torch.library.custom_op("gnn::quantize_rows", mutates_args=(), device_types="cpu")
def quantize_rows(x: Tensor, step: Tensor, bits: Tensor, signed: bool, local: bool) -> Tensor:
    """Round each row to the levels of its own step and width.

    Args:
        x: [rows, ...].
        step: float32 [n]; row i takes entry i % n, so that one serves all rows, and a table for the nodes of one
            graph can be run on others.
        bits: float32, likewise.
        signed: whether levels below zero exist.
        local: step and bits learn from the mean absolute error of their own rows instead of the task's loss.
    """
    return _quantised(x, along_rows(step, x), along_rows(bits, x), signed)


def _rows_backward(ctx: Any, grad: Tensor) -> _Gradients:
    x, step, bits = ctx.saved_tensors
    share = _row_share(x) if ctx.local else None
    of_x, of_step, of_bits = _differentiated(grad, x, along_rows(step, x), along_rows(bits, x), ctx.signed, share)
    needs = ctx.needs_input_grad
    grad_step = _into_rows(of_step, None, step) if needs[1] else None
    return of_x, grad_step, _into_rows(of_bits, None, bits) if needs[2] else None, None, None


@torch.library.custom_op("gnn::quantize_columns", mutates_args=(), device_types="cpu")
def quantize_columns(x: Tensor, step: Tensor, bits: Tensor, signed: bool, local: bool) -> Tensor:
    """Round each column to the levels of its own step.

    Args:
        x: [rows, ...]; columns are the entries of a row, whatever its dimensions.
        step: float32 [columns], or [1] for all.
        bits: float32 [1].
        signed: as for rows.
        local: step and bits learn from the mean absolute error of their own columns.
    """
    return _quantised(x, along_columns(step, x), along_columns(bits, x), signed)


def _columns_backward(ctx: Any, grad: Tensor) -> _Gradients:
    x, step, bits = ctx.saved_tensors
    share = 1 / max(x.shape[0], 1) if ctx.local else None
    of_x, of_step, of_bits = _differentiated(grad, x, along_columns(step, x), along_columns(bits, x), ctx.signed, share)
    needs = ctx.needs_input_grad
    grad_step = _into_columns(of_step, step) if needs[1] else None
    return of_x, grad_step, _into_columns(of_bits, bits) if needs[2] else None, None, None


@torch.library.custom_op("gnn::quantize_nearest", mutates_args=(), device_types="cpu")
def quantize_nearest(x: Tensor, step: Tensor, bits: Tensor, signed: bool, local: bool) -> Tensor:
    """Round each row to the levels of the group whose reach is nearest to its largest magnitude.

    Args:
        x: [rows, ...].
        step: float32 [groups].
        bits: float32 [groups].
        signed: as for rows.
        local: as for rows.
    """
    group = nearest_groups(x, step, bits, signed)
    return _quantised(x, along_rows(step[group], x), along_rows(bits[group], x), signed)


def _nearest_backward(ctx: Any, grad: Tensor) -> _Gradients:
    x, step, bits = ctx.saved_tensors
    group = nearest_groups(x, step, bits, ctx.signed)
    given = along_rows(step[group], x), along_rows(bits[group], x)
    of_x, of_step, of_bits = _differentiated(grad, x, *given, ctx.signed, _row_share(x) if ctx.local else None)
    needs = ctx.needs_input_grad
    grad_step = _into_rows(of_step, group, step) if needs[1] else None
    return of_x, grad_step, _into_rows(of_bits, group, bits) if needs[2] else None, None, None


def _same(x: Tensor, step: Tensor, bits: Tensor, signed: bool, local: bool) -> Tensor:
    return torch.empty_like(x)


for _op, _backward in (
    (quantize_rows, _rows_backward),
    (quantize_columns, _columns_backward),
    (quantize_nearest, _nearest_backward),
):
    _op.register_fake(_same)
    _op.register_autograd(_backward, setup_context=_keep)
