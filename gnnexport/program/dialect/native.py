"""The dialect's arithmetic on our own kernels, for float32 on the processor."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gnnexport.errors import KernelError
from gnnexport.native import kernels
from gnnexport.native.library import why_missing


@functools.cache
def _installed() -> bool:
    return why_missing() is None


def serves(values: Sequence[Tensor | None], indices: Sequence[Tensor]) -> bool:
    """Tell whether the kernels are there and compute with values and indices of these types."""
    given = [(tensor, torch.float32) for tensor in values if tensor is not None]
    given += [(tensor, torch.int64) for tensor in indices]
    return _installed() and all(tensor.dtype == dtype and tensor.device.type == "cpu" for tensor, dtype in given)


def csr(dst: Tensor, num_dst: int) -> tuple[Tensor, Tensor]:
    """Sort edges by destination: `rowptr` int64 [num_dst + 1] and `perm` int64 [num_edges].

    Raises:
        KernelError: a destination is out of range.
    """
    dst = dst.contiguous()
    rowptr, perm = torch.empty(num_dst + 1, dtype=torch.int64), torch.empty_like(dst)
    threads = torch.get_num_threads()
    kernels.build_csr(
        dst.data_ptr(), dst.numel(), num_dst, rowptr.data_ptr(), perm.data_ptr(), index_bits=64, threads=threads
    )
    return rowptr, perm


def aggregate(x: Tensor, rowptr: Tensor, col: Tensor | None, weight: Tensor | None, reduce: str) -> Tensor:
    """Reduce over the slots of each row; without `col`, slot s reads row s.

    Args:
        x: float32 [num_src, ...], or [num_slots, ...] without `col`.
        rowptr: int64 [num_dst + 1].
        col: int64 [num_slots].
        weight: float32 [num_slots] or [num_slots, heads].
        reduce: `sum`, `mean`, `max`, `min` or `prod`.

    Raises:
        KernelError: an index is out of range, or the weights do not fit.
    """
    slots = x.shape[0] if col is None else col.numel()
    if weight is not None and (reduce != "sum" or tuple(weight.shape) not in ((slots,), (slots, *x.shape[1:2]))):
        sizes = f"weights {tuple(weight.shape)} for {slots} slots of rows {tuple(x.shape[1:])}"
        mend = "Pass one weight for each slot, or for each slot and head, and reduce by sum"
        raise KernelError.at("native kernels", f"{reduce} cannot have {sizes}", mend)
    x, rowptr = x.contiguous(), rowptr.contiguous()
    col = None if col is None else col.contiguous()
    weight = None if weight is None else weight.contiguous()
    rows, num_src = rowptr.numel() - 1, x.shape[0]
    out = x.new_empty(rows, *x.shape[1:])
    structure = kernels.Csr(rowptr.data_ptr(), _pointer(col), rows, slots, num_src, index_bits=64)
    kernels.aggregate(
        structure,
        x.data_ptr(),
        math.prod(x.shape[1:]),
        out.data_ptr(),
        reduce=reduce,
        weight=_pointer(weight),
        heads=1 if weight is None or weight.dim() == 1 else weight.shape[1],
        threads=torch.get_num_threads(),
    )
    return out


def edge_softmax(logits: Tensor, rowptr: Tensor) -> Tensor:
    """Normalise float32 [num_slots, ...] so that the slots of each row sum to one."""
    logits, rowptr = logits.contiguous(), rowptr.contiguous()
    slots = logits.shape[0]
    out = torch.empty_like(logits)
    structure = kernels.Csr(rowptr.data_ptr(), 0, rowptr.numel() - 1, slots, slots, index_bits=64)
    heads = math.prod(logits.shape[1:])
    kernels.softmax(structure, logits.data_ptr(), heads, out.data_ptr(), threads=torch.get_num_threads())
    return out


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
