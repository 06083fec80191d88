"""Numbers of rows that PyG counts from the largest index, while a model is captured.

Its `int(index.max()) + 1 if index.numel() > 0 else 0` asks for a number of the data twice; the stand-ins leave it open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric import utils
from torch_geometric.utils.num_nodes import maybe_num_nodes


def one_more_than_largest(index: Tensor) -> Any:
    """Return one more than the largest index, 0 where there is none."""
    flat = index.flatten() if index.dim() > 1 else index
    return torch.cat([flat, flat.new_full((1,), -1)]).max().item() + 1


def _counted(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return what stands for a scatter: into as many rows as the indices need."""

    def scatter(src: Tensor, index: Tensor, dim: int = 0, dim_size: Any = None, reduce: str = "sum") -> Tensor:
        return original(src, index, dim, one_more_than_largest(index) if dim_size is None else dim_size, reduce)

    return scatter


def _maybe_num_nodes(edge_index: Any, num_nodes: Any = None) -> Any:
    """Count nodes by their edges unless their number is given."""
    if num_nodes is not None:
        return num_nodes
    if isinstance(edge_index, tuple):
        return one_more_than_largest(torch.cat([part.flatten() for part in edge_index]))
    return one_more_than_largest(edge_index)


COUNTS: dict[Any, Callable[..., Any]] = {utils.scatter: _counted(utils.scatter), maybe_num_nodes: _maybe_num_nodes}
"""Functions of PyG, and what stands for each while a model is captured."""
