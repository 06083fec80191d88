"""The dialect's op that leaves edges of one graph out of a structure."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("gnn::keep_slots", mutates_args=(), device_types="cpu")
def keep_slots(rowptr: Tensor, perm: Tensor, kept: Tensor, num_rows: int, num_loops: int = 0) -> tuple[Tensor, Tensor]:
    """Leave the slots of some edges out.

    Which edges stay is known of one graph; one with another number of nodes or edges keeps all of its own. Edges are
    told by their place in the input, so that numbering the nodes anew leaves out the same ones.

    Args:
        rowptr: int64 [num_dst + 1].
        perm: int64 [num_slots], the edge in each slot.
        kept: bool [num_edges], of the graph that is known.
        num_rows: number of destinations of that graph.
        num_loops: of its edges, those of nodes to themselves, which stay; for reports.

    Returns:
        `rowptr` int64 [num_dst + 1] of what stays, and the slots that stay, int64 [kept_slots], ascending.
    """
    del num_loops
    if kept.numel() != perm.numel() or num_rows != rowptr.numel() - 1:
        return rowptr.clone(), torch.arange(perm.numel())
    stays = kept.index_select(0, perm)
    before = torch.zeros(perm.numel() + 1, dtype=torch.int64)
    torch.cumsum(stays, 0, out=before[1:])
    return before.index_select(0, rowptr), torch.nonzero(stays).flatten()


@keep_slots.register_fake
def _(rowptr: Tensor, perm: Tensor, kept: Tensor, num_rows: int, num_loops: int = 0) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return torch.empty_like(rowptr), perm.new_empty(count)
