"""The sparse matrix of a graph, which PyG multiplies by where it is given one."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def adjacency(rowptr: Tensor, col: Tensor, values: Tensor | None = None) -> Tensor:
    """Return a square matrix by rows; without `values` each of its elements is one."""
    count = len(rowptr) - 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse ", UserWarning)
        return torch.sparse_csr_tensor(
            rowptr, col, torch.ones(len(col)) if values is None else values, size=(count, count)
        )
