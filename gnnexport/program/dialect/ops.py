"""The dialect's ops as torch knows them: schema, CPU and shape implementations, gradients.

The arithmetic stands in `kernels.py`; shapes and meaning of the arguments are documented there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnexport.program.dialect import kernels

NAMESPACE = "gnn"

_SPREADS = {
    "max": kernels.spread_to_extremes,
    "min": kernels.spread_to_extremes,
    "prod": kernels.spread_to_factors,
}
"""How the gradient of a row reaches its slots where that depends on their values."""


@torch.library.custom_op("gnn::csr", mutates_args=(), device_types="cpu")
def csr(dst: Tensor, num_dst: int) -> tuple[Tensor, Tensor]:
    """Build `rowptr` and `perm` from destinations."""
    return kernels.csr(dst, num_dst)


@csr.register_fake
def _(dst: Tensor, num_dst: int) -> tuple[Tensor, Tensor]:
    return dst.new_empty(num_dst + 1), torch.empty_like(dst)


@torch.library.custom_op("gnn::aggregate", mutates_args=(), device_types="cpu")
def aggregate(x: Tensor, rowptr: Tensor, col: Tensor, weight: Tensor | None, reduce: str) -> Tensor:
    """Gather by source, weigh, and reduce by destination."""
    return kernels.aggregate(x, rowptr, col, weight, reduce)


@aggregate.register_fake
def _(x: Tensor, rowptr: Tensor, col: Tensor, weight: Tensor | None, reduce: str) -> Tensor:
    return x.new_empty(rowptr.shape[0] - 1, *x.shape[1:])


def _aggregate_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, rowptr, col, weight, reduce = inputs
    ctx.reduce, ctx.rowptr, ctx.col = reduce, rowptr, col
    selects = reduce in _SPREADS
    needs_x = selects or (weight is not None and weight.requires_grad)
    ctx.num_src = x.shape[0]
    ctx.save_for_backward(x if needs_x else None, weight, output if selects else None)


def _aggregate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, None]:
    x, weight, output = ctx.saved_tensors
    by_source, destinations, perm = kernels.transpose(ctx.rowptr, ctx.col, ctx.num_src)
    if ctx.reduce in _SPREADS:
        messages = _SPREADS[ctx.reduce](grad, x.index_select(0, ctx.col), output, ctx.rowptr)
        return kernels.reduce_edges(messages.index_select(0, perm), by_source, "sum"), None, None, None, None
    if ctx.reduce == "mean":
        degree = ctx.rowptr.diff().clamp(min=1).to(grad.dtype)
        grad = grad / degree.view(-1, *[1] * (grad.dim() - 1))
    grad_x = grad_weight = None
    if ctx.needs_input_grad[0]:
        weight_by_source = None if weight is None else weight.detach().index_select(0, perm)
        grad_x = kernels.aggregate(grad, by_source, destinations, weight_by_source, "sum")
    if weight is not None and ctx.needs_input_grad[3]:
        grad_weight = kernels.sampled_product(grad, x, kernels.rows_of(ctx.rowptr), ctx.col, weight)
    return grad_x, None, None, grad_weight, None


aggregate.register_autograd(_aggregate_backward, setup_context=_aggregate_setup)


@torch.library.custom_op("gnn::reduce_edges", mutates_args=(), device_types="cpu")
def reduce_edges(messages: Tensor, rowptr: Tensor, reduce: str) -> Tensor:
    """Reduce messages in slot order by destination."""
    return kernels.reduce_edges(messages, rowptr, reduce)


@reduce_edges.register_fake
def _(messages: Tensor, rowptr: Tensor, reduce: str) -> Tensor:
    return messages.new_empty(rowptr.shape[0] - 1, *messages.shape[1:])


def _reduce_edges_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    messages, ctx.rowptr, ctx.reduce = inputs
    ctx.save_for_backward(*((messages, output) if ctx.reduce in _SPREADS else ()))


def _reduce_edges_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    if ctx.reduce in _SPREADS:
        messages, output = ctx.saved_tensors
        return _SPREADS[ctx.reduce](grad, messages, output, ctx.rowptr), None, None
    if ctx.reduce == "mean":
        degree = ctx.rowptr.diff().clamp(min=1).to(grad.dtype)
        grad = grad / degree.view(-1, *[1] * (grad.dim() - 1))
    return grad.index_select(0, kernels.rows_of(ctx.rowptr)), None, None


reduce_edges.register_autograd(_reduce_edges_backward, setup_context=_reduce_edges_setup)


@torch.library.custom_op("gnn::edge_softmax", mutates_args=(), device_types="cpu")
def edge_softmax(logits: Tensor, rowptr: Tensor) -> Tensor:
    """Softmax over the slots of each destination."""
    return kernels.edge_softmax(logits, rowptr)


@edge_softmax.register_fake
def _(logits: Tensor, rowptr: Tensor) -> Tensor:
    return torch.empty_like(logits)


def _edge_softmax_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.rowptr = inputs[1]
    ctx.save_for_backward(output)


def _edge_softmax_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (output,) = ctx.saved_tensors
    scaled = output * grad
    total = kernels.reduce_edges(scaled, ctx.rowptr, "sum")
    return scaled - output * total.index_select(0, kernels.rows_of(ctx.rowptr)), None


edge_softmax.register_autograd(_edge_softmax_backward, setup_context=_edge_softmax_setup)


@torch.library.custom_op("gnn::gather_source", mutates_args=(), device_types="cpu")
def gather_source(x: Tensor, rowptr: Tensor, col: Tensor) -> Tensor:
    """Return `x[col]`, the source's row for every slot."""
    return x.index_select(0, col)


@gather_source.register_fake
def _(x: Tensor, rowptr: Tensor, col: Tensor) -> Tensor:
    return x.new_empty(col.shape[0], *x.shape[1:])


def _gather_source_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.rowptr, ctx.col = inputs
    ctx.num_src = x.shape[0]


def _gather_source_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    by_source, _, perm = kernels.transpose(ctx.rowptr, ctx.col, ctx.num_src)
    return kernels.reduce_edges(grad.index_select(0, perm), by_source, "sum"), None, None


gather_source.register_autograd(_gather_source_backward, setup_context=_gather_source_setup)


@torch.library.custom_op("gnn::gather_destination", mutates_args=(), device_types="cpu")
def gather_destination(x: Tensor, rowptr: Tensor, row: Tensor) -> Tensor:
    """Return `x[row]`, the destination's row for every slot; `row` is the destination of each slot."""
    return x.index_select(0, row)


@gather_destination.register_fake
def _(x: Tensor, rowptr: Tensor, row: Tensor) -> Tensor:
    return x.new_empty(row.shape[0], *x.shape[1:])


def _gather_destination_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.rowptr = inputs[1]


def _gather_destination_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return kernels.reduce_edges(grad, ctx.rowptr, "sum"), None, None


gather_destination.register_autograd(_gather_destination_backward, setup_context=_gather_destination_setup)
