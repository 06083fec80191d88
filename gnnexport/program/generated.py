"""Made-up graphs: what a model is checked on where there is no data, and what data seldom holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnnexport.program.inputs import NUM_EDGES, NUM_GRAPHS, NUM_NODES, NUM_PAIRS, Input, Role

EDGES_PER_NODE = 3
HUB_SHARE = 4
"""One edge in so many of a generated graph goes into its first node."""


def generate(
    inputs: Sequence[Input], sizes: Sequence[int], *, seed: int = 0, edges: bool | Tensor = True
) -> dict[str, Tensor]:
    """Make a batch of random graphs.

    Each graph has a hub, self-loops and duplicate edges by chance, and nodes without edges.

    Args:
        inputs: what to make, with widths.
        sizes: nodes of each graph; 0 for an empty one.
        seed: of everything random.
        edges: whether there are any, or the edges themselves, int64 [2, num_edges].
    """
    generator = torch.Generator().manual_seed(seed)
    edge_index = edges if isinstance(edges, Tensor) else _edges(sizes if edges else [], generator)
    num_nodes = sum(sizes)
    counts = {NUM_NODES: num_nodes, NUM_EDGES: edge_index.shape[1], NUM_GRAPHS: len(sizes), NUM_PAIRS: num_nodes + 1}
    made: dict[str, Tensor] = {}
    for item in inputs:
        shape = [counts[size] if isinstance(size, str) else size for size in item.shape]
        if item.role is Role.EDGE_INDEX:
            made[item.name] = edge_index
        elif item.role is Role.GRAPH_IDS:
            made[item.name] = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        elif item.role is Role.NUM_GRAPHS:
            made[item.name] = torch.tensor(len(sizes))
        elif item.role is Role.LABEL_EDGES:
            made[item.name] = torch.randint(0, max(num_nodes, 1), shape, generator=generator)
        elif item.role is Role.EDGE_WEIGHT:
            made[item.name] = torch.rand(shape, generator=generator) + 0.1
        else:
            made[item.name] = torch.randn(shape, generator=generator)
    return made


def _edges(sizes: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw edges inside each graph, int64 [2, num_edges]; the last node of a larger graph stays without any."""
    parts, first = [torch.zeros(2, 0, dtype=torch.int64)], 0
    for size in sizes:
        if size > 0:
            linked = max(1, size - 1)
            pairs = torch.randint(0, linked, (2, EDGES_PER_NODE * linked), generator=generator)
            pairs[1, ::HUB_SHARE] = 0
            parts.append(pairs + first)
        first += size
    return torch.cat(parts, 1)
