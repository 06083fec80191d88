"""Hypothesis graphs: one node, no edges, isolated nodes, duplicates, self-loops, hubs."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.small_models import EDGE_WIDTH, WIDTH

MOST_NODES, MOST_EDGES = 12, 40


@st.composite
def edge_indices(draw: st.DrawFn, num_nodes: int) -> Tensor:
    """Draw an edge index, int64 [2, num_edges]; drawing from few nodes makes hubs and duplicates."""
    node = st.integers(0, num_nodes - 1)
    few = st.sampled_from(sorted({0, num_nodes - 1, num_nodes // 2}))
    pair = st.one_of(st.tuples(node, node), st.tuples(node, few), st.tuples(few, few))
    pairs = draw(st.lists(pair, max_size=MOST_EDGES))
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t().contiguous()


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Tensor]:
    """Draw a graph with every input that a small model may take."""
    num_nodes = draw(st.integers(1, MOST_NODES))
    edge_index = draw(edge_indices(num_nodes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    num_edges = edge_index.shape[1]
    return {
        "x": torch.randn(num_nodes, WIDTH, generator=generator),
        "edge_index": edge_index,
        "edge_weight": torch.rand(num_edges, generator=generator) + 0.1,
        "edge_attr": torch.randn(num_edges, EDGE_WIDTH, generator=generator),
    }


def permutations(size: int) -> st.SearchStrategy[Tensor]:
    """Draw an order of `size` things."""
    return st.permutations(range(size)).map(lambda order: torch.tensor(order, dtype=torch.int64))
