"""The dialect's op that numbers the nodes of a graph anew, so that what is gathered together lies together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor


@torch.library.custom_op("gnn::order", mutates_args=(), device_types="cpu")
def order(edge_index: Tensor, num_nodes: int, batch: Tensor | None, kind: str) -> tuple[Tensor, Tensor]:
    """Put the nodes of a graph in an order that depends on the edges alone.

    Args:
        edge_index: int64 [2, num_edges].
        num_nodes: number of nodes.
        batch: int64 [num_nodes], the graph of each node; nodes of a graph stay together and graphs stay in order.
        kind: `rcm` for reverse Cuthill-McKee, which puts neighbours close to each other; `degree` for the nodes with
            most edges first, equal ones in the order given.

    Returns:
        The node in each place, int64 [num_nodes]; and the place of each node, int64 [num_nodes].
    """
    ends = edge_index.numpy()
    nodes = torch.from_numpy(_ORDERS[kind](ends, num_nodes).astype(np.int64))
    if batch is not None:
        nodes = nodes[batch[nodes].argsort(stable=True)]
    return nodes, torch.empty_like(nodes).scatter_(0, nodes, torch.arange(num_nodes))


@order.register_fake
def _(edge_index: Tensor, num_nodes: int, batch: Tensor | None, kind: str) -> tuple[Tensor, Tensor]:
    return edge_index.new_empty(num_nodes), edge_index.new_empty(num_nodes)


def _by_neighbours(ends: NDArray[np.int64], num_nodes: int) -> NDArray[np.integer]:
    if num_nodes == 0:  # SciPy fails on a matrix without rows
        return np.arange(0)
    both = np.concatenate([ends, ends[::-1]], axis=1)
    adjacency = csr_array((np.ones(both.shape[1], dtype=bool), (both[0], both[1])), shape=(num_nodes, num_nodes))
    found: NDArray[np.integer] = reverse_cuthill_mckee(adjacency, symmetric_mode=True)
    return found


def _by_degree(ends: NDArray[np.int64], num_nodes: int) -> NDArray[np.integer]:
    return np.argsort(-np.bincount(ends.reshape(-1), minlength=num_nodes), kind="stable")


_ORDERS = {"rcm": _by_neighbours, "degree": _by_degree}
