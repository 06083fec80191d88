"""Choose the request that is timed: as much of the data as one request typically holds."""

from __future__ import annotations

from dataclasses import replace

import torch

from gnnexport.program.data import GraphData
from gnnexport.program.inputs import NAMES, Mode, Role

REQUEST_GRAPHS = 64
"""Graphs of a typical request."""

MOST_PAIRS = 4096
"""Pairs of nodes asked about in one request; a bundle keeps them, so that every machine times the same request."""


REQUEST_NODES = 32
"""Nodes asked about in one request of mode `batched`."""


def typical_targets(data: GraphData) -> torch.Tensor:
    """Return the nodes of a typical request, int64 [num_targets]: drawn from those of the test, where there are any."""
    nodes = torch.arange(data.num_nodes)
    if "test" in data.masks and bool(data.masks["test"].any()):
        nodes = nodes[data.masks["test"]]
    return nodes[torch.randperm(len(nodes), generator=torch.Generator().manual_seed(0))[:REQUEST_NODES]]


def typical_request(data: GraphData, mode: Mode) -> GraphData:
    """Return what one inference is given when it is timed; the data itself where it is no larger than that.

    Args:
        data: the graph or graphs.
        mode: how the model will be deployed.
    """
    pairs = next((name for name in data.inputs if NAMES.get(name) is Role.LABEL_EDGES), None)
    if pairs is not None:
        return _fewer_pairs(data, pairs)
    if mode != "graphs" or data.num_graphs is None or data.num_graphs <= REQUEST_GRAPHS:
        return data
    graphs = torch.arange(data.num_graphs)
    if data.level == "graph" and "test" in data.masks and bool(data.masks["test"].any()):
        graphs = graphs[data.masks["test"]]
    return data.select(graphs[:REQUEST_GRAPHS])


def _fewer_pairs(data: GraphData, name: str) -> GraphData:
    """Keep some of the pairs and the whole graph; pairs may join graphs."""
    pairs = data.inputs[name]
    if pairs.shape[1] <= MOST_PAIRS:
        return data
    chosen = torch.randperm(pairs.shape[1], generator=torch.Generator().manual_seed(0))[:MOST_PAIRS]
    inputs = {**data.inputs, name: pairs[:, chosen].contiguous()}
    if data.level != "pair":
        return replace(data, inputs=inputs)
    masks = {split: mask[chosen] for split, mask in data.masks.items()}
    return replace(data, inputs=inputs, y=None if data.y is None else data.y[chosen], masks=masks)
