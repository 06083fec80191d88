"""Ops of the dialect on sets of rows that differ in size: the table that lays them out, and recurrence along it.

How wide the table is, only its values tell. Nothing may ask for that number while a model is captured: it stays a
symbol, of which the ops say no more than that it is at least so large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnnexport.program.dialect import kernels


@torch.library.custom_op("gnn::table", mutates_args=(), device_types="cpu")
def table(index: Tensor, num_rows: int, least: int) -> tuple[Tensor, Tensor]:
    """Lay items out in rows, those of a row in the order given.

    Args:
        index: int64 [num_items], the row of each item, in any order.
        num_rows: number of rows.
        least: number of columns, at least; there are as many as the longest row has items where that is more.

    Returns:
        The item in each cell, int64 [num_rows, columns], `num_items` where there is none; and the cell of each item,
        int64 [num_items], counted along the rows.
    """
    rowptr, perm = kernels.csr(index, num_rows)
    columns = max(least, int(rowptr.diff().max()) if num_rows else 0)
    row = index[perm]
    place = row * columns + torch.arange(len(perm)) - rowptr[row]
    cells = index.new_full((num_rows * columns,), len(perm))
    cells[place] = perm
    return cells.view(num_rows, columns), torch.empty_like(index).scatter_(0, perm, place)


@table.register_fake
def _(index: Tensor, num_rows: int, least: int) -> tuple[Tensor, Tensor]:
    columns = torch.library.get_ctx().new_dynamic_size(min=max(least, 2))
    return index.new_empty(num_rows, columns), torch.empty_like(index)


@torch.library.custom_op("gnn::lstm", mutates_args=(), device_types="cpu")
def lstm(
    input: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `aten::lstm` over sequences of a length that only their values tell."""
    options = (has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return torch.lstm(input, list(hx), list(params), *options)


@lstm.register_fake
def _(input: Tensor, hx: Any, params: Any, has_biases: bool, num_layers: int, *options: Any) -> tuple[Tensor, ...]:
    width = hx[0].shape[2] * (2 if options[2] else 1)
    out = input.new_empty(input.shape[0], input.shape[1], width)
    return out, torch.empty_like(hx[0]), torch.empty_like(hx[1])


@torch.library.custom_op("gnn::gru", mutates_args=(), device_types="cpu")
def gru(
    input: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """Run `aten::gru` over sequences of a length that only their values tell."""
    return torch.gru(input, hx, list(params), has_biases, num_layers, dropout, train, bidirectional, batch_first)


@gru.register_fake
def _(input: Tensor, hx: Tensor, params: Any, has_biases: bool, num_layers: int, *options: Any) -> tuple[Tensor, ...]:
    width = hx.shape[2] * (2 if options[2] else 1)
    return input.new_empty(input.shape[0], input.shape[1], width), torch.empty_like(hx)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    input, hx, params, *ctx.options = inputs
    states = list(hx) if isinstance(hx, list | tuple) else [hx]
    ctx.states, ctx.one_state = len(states), not isinstance(hx, list | tuple)
    ctx.save_for_backward(input, *states, *params)


def _differentiate(function: Any) -> Any:
    """Return a backward that runs the sequence once more: what it keeps in between is no result of the op."""

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        with torch.enable_grad():
            given = [value.detach().requires_grad_() for value in ctx.saved_tensors]
            states, params = given[1 : 1 + ctx.states], given[1 + ctx.states :]
            outputs = function(given[0], states[0] if ctx.one_state else states, params, *ctx.options)
            asked = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
            found = torch.autograd.grad([out for out, _ in asked], given, [grad for _, grad in asked])
        of_states = list(found[1 : 1 + ctx.states])
        of_params = list(found[1 + ctx.states :])
        return (found[0], of_states[0] if ctx.one_state else of_states, of_params, *[None] * len(ctx.options))

    return backward


lstm.register_autograd(_differentiate(torch.lstm), setup_context=_keep_inputs)
gru.register_autograd(_differentiate(torch.gru), setup_context=_keep_inputs)
