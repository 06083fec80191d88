"""What a model is trained on and what it then meets for the first time: graphs of a set, and nodes added to a graph."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric.data import Batch, Data
from torch_geometric.utils import subgraph

from benchmarks.real_data import ROOT, require
from gnnexport.frontends.data import load_data
from gnnexport.frontends.graph_sets import SPLITS
from gnnexport.program.data import GraphData, Split

GRIDS = "grids"
"""Handwritten digits drawn as graphs, which need no file."""

MOST_DEGREE = 63
"""Of graphs without features nodes tell their in-degree, one column for each up to this."""

ADDED_SHARE = 0.5
"""Of the test nodes of a graph, those that come after training."""


@dataclass(frozen=True)
class Trial:
    """What one seed learns from and is asked.

    Args:
        known: with masks for train and val; nothing of what is new is in it.
        asked: whose `test` mask marks what is new.
    """

    known: GraphData
    asked: GraphData


def new_graphs(name: str, split: int, most: int | None = None) -> Trial:
    """Hold out the test graphs of a set.

    Args:
        name: of the set.
        split: which of its splits; of the digits, the seed that shuffles them.
        most: graphs of each split; `None` for all.
    """
    data = grids(split) if name == GRIDS else _featured(load_data(require(name), split=split)[0])
    rows = {split: torch.nonzero(data.masks[split]).flatten()[:most] for split in SPLITS}
    return Trial(data.select(torch.cat([rows["train"], rows["val"]])), data.select(rows["test"]))


def grids(seed: int) -> GraphData:
    """Return the digits as a set of graphs, split by a seeded order."""
    drawn: dict[Split, list[Data]] = runpy.run_path(str(ROOT / "samples" / "grids" / "train.py"))["grids"](seed)
    batch: Any = Batch.from_data_list([graph for split in SPLITS for graph in drawn[split]])
    of = torch.cat([torch.full((len(drawn[split]),), place) for place, split in enumerate(SPLITS)])
    masks = {split: of == place for place, split in enumerate(SPLITS)}
    inputs = {"x": batch.x, "edge_index": batch.edge_index, "batch": batch.batch, "num_graphs": torch.tensor(len(of))}
    return GraphData(GRIDS, inputs, batch.y, masks, "graph")


def _featured(data: GraphData) -> GraphData:
    """Give degrees, which stand for features where there are none, a column each."""
    x = data.inputs["x"]
    if x.shape[1] > 1:
        return data
    columns = functional.one_hot(x[:, 0].long().clamp(max=MOST_DEGREE), MOST_DEGREE + 1).float()
    return replace(data, inputs={**data.inputs, "x": columns})


def new_nodes(data: GraphData, seed: int, share: float = ADDED_SHARE) -> Trial:
    """Take some of the test nodes of a graph away, with all their edges.

    Args:
        data: one graph.
        seed: draws them.
        share: of the test nodes.
    """
    test = torch.nonzero(data.masks["test"]).flatten()
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
    added = torch.zeros(data.num_nodes, dtype=torch.bool)
    added[test[order[: int(share * len(test))]]] = True
    return Trial(_without(data.hide("test"), added), replace(data, masks={"test": added}))


def _without(data: GraphData, nodes: Tensor) -> GraphData:
    kept = torch.nonzero(~nodes).flatten()
    assert data.y is not None
    edge_index, _ = subgraph(kept, data.inputs["edge_index"], relabel_nodes=True, num_nodes=data.num_nodes)
    masks: dict[Split, Tensor] = {"train": data.masks["train"][kept], "val": data.masks["val"][kept]}
    return replace(data, inputs={"x": data.inputs["x"][kept], "edge_index": edge_index}, y=data.y[kept], masks=masks)


def number_of_classes(trials: Sequence[Trial]) -> int:
    """Return how many classes there are in all trials."""
    return 1 + max(int(data.y.max()) for trial in trials for data in (trial.known, trial.asked) if data.y is not None)
