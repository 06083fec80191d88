"""Cut a set of graphs into pieces that a Program runs on in one go."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnexport.program.data import GraphData, Split, labelled_rows

LARGE_NODES = 200_000
"""Sets of more nodes are cut."""

BATCH_NODES = 50_000
"""Nodes of one piece of a large set, unless a single graph has more."""


def split_set(data: GraphData, split: Split, *, seed: int | None = None) -> list[GraphData]:
    """Return the graphs of one split, all together or in mini-batches when they are large.

    Graphs with no labelled row in the split stay out, so that training never sees the features of others. One graph
    is one piece, whatever the split; so is a set whose rows are pairs, which may join graphs.

    Args:
        data: a graph or a set.
        split: whose labelled rows count.
        seed: shuffles the graphs before they are cut; `None` keeps their order.
    """
    if data.num_graphs is None or data.level == "pair":
        return [data]
    graphs = _graphs_of(data, split)
    nodes = torch.bincount(data.inputs["batch"], minlength=data.num_graphs)[graphs]
    if int(nodes.sum()) <= LARGE_NODES:
        return [data.select(graphs)]
    if seed is not None:
        order = torch.randperm(len(graphs), generator=torch.Generator().manual_seed(seed))
        graphs, nodes = graphs[order], nodes[order]
    return [data.select(part) for part in _cut(graphs, nodes)]


def _graphs_of(data: GraphData, split: Split) -> Tensor:
    """Return the graphs with a labelled row in a split, ascending; all of them when there is none to judge."""
    assert data.y is not None
    rows = data.masks[split] & labelled_rows(data.y)
    found = torch.nonzero(rows).flatten() if data.level == "graph" else data.inputs["batch"][rows].unique()
    return found if len(found) else torch.arange(data.num_graphs or 0)


def _cut(graphs: Tensor, nodes: Tensor) -> list[Tensor]:
    """Cut a list of graphs where the nodes counted so far pass a multiple of the limit."""
    piece = (nodes.cumsum(0) - nodes) // BATCH_NODES
    starts = torch.nonzero(piece.diff(prepend=torch.tensor([-1]))).flatten().tolist()
    return [graphs[start:end] for start, end in zip(starts, [*starts[1:], len(graphs)], strict=True)]
