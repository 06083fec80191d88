"""CPU arithmetic of the dialect, on plain tensors and without gradients.

What our own kernels can do they do; the rest, and installations without them, is left to torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from torch.utils.weak import WeakTensorKeyDictionary

from gnnexport.program.dialect import native

REDUCTIONS = ("sum", "mean", "max", "min", "prod")

_transposes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def csr(dst: Tensor, num_dst: int) -> tuple[Tensor, Tensor]:
    """Sort edges by destination, stable in input order.

    Args:
        dst: int64 [num_edges], the destination of each edge.
        num_dst: number of destinations.

    Returns:
        `rowptr` int64 [num_dst + 1] and `perm` int64 [num_edges], the edge in each slot.
    """
    if native.serves([], [dst]):
        return native.csr(dst, num_dst)
    perm = torch.argsort(dst, stable=True)
    rowptr = torch.zeros(num_dst + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(dst, minlength=num_dst), 0, out=rowptr[1:])
    return rowptr, perm


def rows_of(rowptr: Tensor) -> Tensor:
    """Return the destination of every slot, int64 [num_slots]."""
    return torch.repeat_interleave(torch.arange(rowptr.numel() - 1), rowptr.diff())


def transpose(rowptr: Tensor, col: Tensor, num_src: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the CSR by source, made once for as long as `col` lives with this `rowptr`.

    Returns:
        `rowptr` int64 [num_src + 1], `col` int64 [num_slots] (destinations), `perm` int64 [num_slots]
        (the slot of the original structure).
    """
    cached = _transposes.get(col)
    if cached is None or cached[0] is not rowptr or cached[1].numel() != num_src + 1:
        by_source, perm = csr(col, num_src)
        cached = (rowptr, by_source, rows_of(rowptr)[perm], perm)
        _transposes[col] = cached
    return cached[1], cached[2], cached[3]


def _bag(values: Tensor, index: Tensor, rowptr: Tensor, reduce: str, weight: Tensor | None) -> Tensor:
    """Reduce rows of a matrix; empty segments give zero, and one for a product.

    `embedding_bag` moves rows three times faster than a sparse product in torch.
    """
    if reduce == "prod":
        row = rows_of(rowptr)[:, None].expand(-1, values.shape[1])
        ones = values.new_ones(rowptr.numel() - 1, values.shape[1])
        return ones.scatter_reduce(0, row, values.index_select(0, index), "prod")
    if index.numel() == 0 or rowptr.numel() == 1 or values.shape[1] == 0:
        return values.new_zeros(rowptr.numel() - 1, values.shape[1])
    if reduce == "min":
        return -_bag(-values, index, rowptr, "max", None)
    values = values.contiguous()
    return embedding_bag(index, values, rowptr, mode=reduce, per_sample_weights=weight, include_last_offset=True)


def aggregate(x: Tensor, rowptr: Tensor, col: Tensor, weight: Tensor | None, reduce: str) -> Tensor:
    """Reduce over the slots of each row: `out[i] = reduce_s weight[s] * x[col[s]]`.

    Args:
        x: [num_src, channels], or [num_src, heads, channels].
        rowptr: int64 [num_dst + 1].
        col: int64 [num_slots].
        weight: [num_slots], or [num_slots, heads] for three-dimensional `x`; only with `sum`.
        reduce: `sum`, `mean`, `max`, `min` or `prod`; a row without slots gives zero, and one for `prod`.
    """
    if native.serves([x, weight], [rowptr, col]):
        return native.aggregate(x, rowptr, col, weight, reduce)
    num_dst = rowptr.numel() - 1
    if weight is not None and weight.dim() == 2:
        heads = [_bag(x[:, h], col, rowptr, reduce, weight[:, h].contiguous()) for h in range(x.shape[1])]
        return torch.stack(heads, 1) if heads else x.new_zeros(num_dst, *x.shape[1:])
    flat = _bag(_matrix(x), col, rowptr, reduce, weight)
    return flat.reshape(num_dst, *x.shape[1:])


def reduce_edges(messages: Tensor, rowptr: Tensor, reduce: str) -> Tensor:
    """Reduce messages in slot order, [num_slots, ...], to [num_dst, ...]."""
    if native.serves([messages], [rowptr]):
        return native.aggregate(messages, rowptr, None, None, reduce)
    slots = torch.arange(messages.shape[0])
    flat = _bag(_matrix(messages), slots, rowptr, reduce, None)
    return flat.reshape(rowptr.numel() - 1, *messages.shape[1:])


def _matrix(values: Tensor) -> Tensor:
    """Flatten all but the first dimension, also when the first is zero."""
    width = 1
    for size in values.shape[1:]:
        width *= size
    return values.reshape(values.shape[0], width)


def edge_softmax(logits: Tensor, rowptr: Tensor) -> Tensor:
    """Normalise [num_slots, ...] so that the slots of each row sum to one."""
    if native.serves([logits], [rowptr]):
        return native.edge_softmax(logits, rowptr)
    row = rows_of(rowptr)
    shifted = (logits - reduce_edges(logits, rowptr, "max")[row]).exp()
    return shifted / reduce_edges(shifted, rowptr, "sum")[row]


def spread_to_extremes(grad: Tensor, messages: Tensor, out: Tensor, rowptr: Tensor) -> Tensor:
    """Give each row's gradient to the slots that attain its maximum or minimum, in equal shares."""
    row = rows_of(rowptr)
    attains = (messages == out[row]).to(grad.dtype)
    ties = reduce_edges(attains, rowptr, "sum").clamp(min=1)
    return attains * (grad / ties)[row]


def spread_to_factors(grad: Tensor, messages: Tensor, out: Tensor, rowptr: Tensor) -> Tensor:
    """Give each slot the gradient of its row times the product of the row's other slots, zeros among them or not."""
    row = rows_of(rowptr)
    is_zero = messages == 0
    zeros = reduce_edges(is_zero.to(grad.dtype), rowptr, "sum")[row]
    nonzero = reduce_edges(messages.masked_fill(is_zero, 1), rowptr, "prod")[row]
    others = torch.where(is_zero, nonzero, out[row] / messages.masked_fill(is_zero, 1))
    return grad[row] * others.masked_fill(zeros > is_zero.to(grad.dtype), 0)


def sampled_product(grad: Tensor, x: Tensor, row: Tensor, col: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient of edge weights: the dot products of `grad[row]` and `x[col]`, shaped as `weight`."""
    product = grad.index_select(0, row) * x.index_select(0, col)
    return product.flatten(weight.dim()).sum(-1)
