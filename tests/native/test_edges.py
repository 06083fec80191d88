"""Edges made ready for aggregation, against PyTorch Geometric's own preparation, which runs in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import add_remaining_self_loops

from gnnexport.errors import KernelError
from gnnexport.native import kernels
from tests.graph_strategies import edge_indices
from tests.native.twins import Array, build_csr

pytestmark = pytest.mark.usefixtures("native")


def prepare(edges: Array, num_nodes: int, weight: Array | None = None, **options: Any) -> tuple[Array, Array, Array]:
    """Run the kernel; return `rowptr`, `col` and `weight`."""
    src, dst = (np.ascontiguousarray(ends, np.int64) for ends in edges)
    made: list[Array] = [np.full(num_nodes + 1, -1)]

    def make(num_slots: int) -> tuple[int, int, int]:
        made.extend([np.full(num_slots, -1), np.full(num_slots, np.nan, np.float32)])
        return made[0].ctypes.data, made[1].ctypes.data, made[2].ctypes.data

    given_weight = 0 if weight is None else weight.ctypes.data
    kernels.prepare_edges(src.ctypes.data, dst.ctypes.data, len(src), num_nodes, make, weight=given_weight, **options)
    return made[0], made[1], made[2]


def expected(edges: Array, num_nodes: int, weight: Array) -> tuple[Array, Array, Array]:
    """Sort edges with weights by destination, stable in their order."""
    rowptr, perm = build_csr(edges[1], num_nodes)
    return rowptr, edges[0][perm], weight[perm]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), weighted=st.booleans(), one_loop=st.booleans(), fill=st.sampled_from([1.0, 2.0]))
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_small_graphs(
    threads: int, normalise: bool, data: st.DataObject, weighted: bool, one_loop: bool, fill: float
) -> None:
    """Loops, weights and their normalisation are those of a GCN; loops present keep their weight."""
    num_nodes = data.draw(st.integers(1, 8))
    edges = data.draw(edge_indices(num_nodes))
    weight = torch.rand(edges.shape[1]) + 0.1 if weighted else None
    fill = fill if weighted else 1.0  # without weights PyTorch Geometric gives every loop one
    if normalise:
        ready, value = gcn_norm(edges, weight, num_nodes, improved=fill == 2, add_self_loops=one_loop)
    elif one_loop:
        ready, value = add_remaining_self_loops(edges, weight, fill, num_nodes)
    else:
        ready, value = edges, weight
    value = torch.ones(ready.shape[1]) if value is None else value
    given_weight = None if weight is None else weight.numpy()
    options = {"one_loop": one_loop, "fill": fill, "normalise": normalise, "threads": threads}
    answer = prepare(edges.numpy(), num_nodes, given_weight, **options)
    for actual, wanted in zip(answer, expected(ready.numpy(), num_nodes, value.numpy()), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-6)


def test_many_edges_give_the_same_bits_on_any_number_of_threads() -> None:
    """Stretches of several threads meet in order, also where nodes have many edges and loops."""
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 500, (2, 300_000))
    answers = [prepare(edges, 500, one_loop=True, normalise=True, threads=threads) for threads in (1, 2, 7)]
    for answer in answers[1:]:
        for first, other in zip(answers[0], answer, strict=True):
            np.testing.assert_array_equal(first, other)
    kept = edges[:, edges[0] != edges[1]]
    loops = np.concatenate([kept, np.tile(np.arange(500), (2, 1))], axis=1)
    rowptr, col, _ = expected(loops, 500, np.ones(loops.shape[1]))
    np.testing.assert_array_equal(answers[0][0], rowptr)
    np.testing.assert_array_equal(answers[0][1], col)


@pytest.mark.parametrize("edges", [[[0], [3]], [[3], [0]], [[-1], [0]], [[0], [-1]]])
def test_nodes_out_of_range(edges: list[list[int]]) -> None:
    """A node that there is not is refused at either end of an edge."""
    with pytest.raises(KernelError, match="out of range"):
        prepare(np.array(edges), 3)


def test_no_edges() -> None:
    """Nodes alone get their loops; nothing at all stays nothing."""
    rowptr, col, weight = prepare(np.empty((2, 0)), 3, one_loop=True, normalise=True)
    assert (rowptr.tolist(), col.tolist(), weight.tolist()) == ([0, 1, 2, 3], [0, 1, 2], [1, 1, 1])
    rowptr, col, _ = prepare(np.empty((2, 0)), 0)
    assert (rowptr.tolist(), col.tolist()) == ([0], [])
