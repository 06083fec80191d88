"""Made-up graphs: what a model is checked on where there is no data, and what data seldom holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gnnexport.program.inputs import (
    NUM_EDGES,
    NUM_GRAPHS,
    NUM_NODES,
    NUM_PAIRS,
    TYPES,
    Input,
    Role,
    ends_of,
    suffix_of,
)

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
    kinds = [suffix_of(item.name) for item in inputs if item.role is Role.NODE_FEATURES]
    # A further kind has one node more in every graph that has any, so that mixed-up kinds are noticed.
    nodes = {NUM_NODES + kind: [size and size + more for size in sizes] for more, kind in enumerate(kinds)}
    num_nodes = sum(sizes)
    counts = {NUM_NODES: num_nodes, NUM_GRAPHS: len(sizes), NUM_PAIRS: num_nodes + 1}
    counts |= {name: sum(each) for name, each in nodes.items()}
    joined: dict[str, Tensor] = {}
    for item in inputs:
        if item.role is Role.EDGE_INDEX:
            given = edges
            if not isinstance(given, Tensor):
                ends = [nodes.get(end, sizes) if given else [] for end in ends_of(item.name)]
                given = _edges(ends[0], ends[1], generator)
            joined[item.name] = given
            counts[NUM_EDGES + suffix_of(item.name)] = joined[item.name].shape[1]
    made: dict[str, Tensor] = {}
    for item in inputs:
        shape = [counts[size] if isinstance(size, str) else size for size in item.shape]
        if item.role is Role.EDGE_INDEX:
            made[item.name] = joined[item.name]
        elif item.role is Role.GRAPH_IDS:
            made[item.name] = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        elif item.role is Role.NUM_GRAPHS:
            made[item.name] = torch.tensor(len(sizes))
        elif item.role is Role.LABEL_EDGES:
            made[item.name] = torch.randint(0, max(num_nodes, 1), shape, generator=generator)
        elif item.role is Role.EDGE_WEIGHT:
            made[item.name] = torch.rand(shape, generator=generator) + 0.1
        elif item.role in TYPES:
            made[item.name] = torch.randint(0, item.types or 1, shape, generator=generator)
        else:
            made[item.name] = torch.randn(shape, generator=generator)
    return made


def by_destination(inputs: Sequence[Input], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sort the edges of graphs by destination, with all that belongs to them; several edge inputs stay as they are."""
    edges = [item.name for item in inputs if item.role is Role.EDGE_INDEX]
    if len(edges) != 1:
        return dict(values)
    order = values[edges[0]][1].argsort(stable=True)
    axes = {item.name: item.shape.index(NUM_EDGES) for item in inputs if NUM_EDGES in item.shape}
    return {name: value.index_select(axes[name], order) if name in axes else value for name, value in values.items()}


def _edges(sources: Sequence[int], destinations: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw edges inside each graph, int64 [2, num_edges]; the last node of a larger graph stays without any."""
    parts, first = [torch.zeros(2, 0, dtype=torch.int64)], torch.zeros(2, 1, dtype=torch.int64)
    for ends in zip(sources, destinations, strict=True):
        if min(ends) > 0:
            linked = [max(1, size - 1) for size in ends]
            count = EDGES_PER_NODE * linked[1]
            if linked[0] == linked[1]:
                pairs = torch.randint(0, linked[0], (2, count), generator=generator)
            else:
                pairs = torch.stack([torch.randint(0, size, (count,), generator=generator) for size in linked])
            pairs[1, ::HUB_SHARE] = 0
            parts.append(pairs + first)
        first = first + torch.tensor(ends)[:, None]
    return torch.cat(parts, 1)
