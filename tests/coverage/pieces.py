"""Aggregations, norms and readouts, each in a small model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.nn import aggr

from tests.coverage.recipe import BATCHED, HIDDEN, WIDTH, Recipe, wrapped


def degrees() -> Tensor:
    """Return the histogram of in-degrees that degree scalers want."""
    return torch.tensor([2, 5, 7, 4, 1])


def in_order(size: int) -> Tensor:
    """Draw edges sorted by destination, for PyG refuses others, and some at all, for it fails on none."""
    linked = max(size - 1, 1)
    edges = torch.randint(0, linked, (2, 4 * size), generator=torch.Generator().manual_seed(size))
    edges[1, :size] = 0
    return edges[:, edges[1].argsort(stable=True)]


def sage(name: str, make: Callable[[], Any], edges: Callable[[int], Tensor] | None = None) -> Recipe:
    """Return the recipe of GraphSAGE with an aggregation."""

    def layer() -> nn.Module:
        return pyg.SAGEConv(WIDTH, HIDDEN, aggr=make())

    return wrapped("aggregation", name, layer, edges=edges)


AGGREGATIONS = (
    sage("sum", lambda: "sum"),
    sage("mean", lambda: "mean"),
    sage("max", lambda: "max"),
    sage("min", lambda: "min"),
    sage("mul", lambda: "mul"),
    sage("var", lambda: aggr.VarAggregation()),
    sage("std", lambda: aggr.StdAggregation()),
    sage("median", lambda: aggr.MedianAggregation(), in_order),
    sage("quantile", lambda: aggr.QuantileAggregation(0.3), in_order),
    sage("softmax, learned", lambda: aggr.SoftmaxAggregation(learn=True)),
    sage("power mean, learned", lambda: aggr.PowerMeanAggregation(learn=True)),
    sage("lstm", lambda: aggr.LSTMAggregation(WIDTH, WIDTH), in_order),
    sage("gru", lambda: aggr.GRUAggregation(WIDTH, WIDTH), in_order),
    sage("sum, mean and max at once", lambda: ["sum", "mean", "max"]),
    sage("several, each with its own", lambda: aggr.MultiAggregation(["mean", "std", "softmax"], mode="sum")),
    sage("degree scaled", lambda: aggr.DegreeScalerAggregation("mean", "amplification", degrees())),
    sage("variance preserving", lambda: aggr.VariancePreservingAggregation()),
    sage("attention", lambda: aggr.AttentionalAggregation(nn.Linear(WIDTH, 1))),
    sage("deep sets", lambda: aggr.DeepSetsAggregation(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))),
    wrapped(
        "aggregation",
        "sort",
        lambda: pyg.SAGEConv((2 * WIDTH, WIDTH), HIDDEN, aggr=aggr.SortAggregation(k=2)),
        edges=in_order,
    ),
)


def norm(name: str, make: Callable[[], nn.Module], *, call: Callable[..., Tensor] | None = None) -> Recipe:
    """Return the recipe of a norm on batches of graphs; the answer is for nodes."""
    return wrapped("norm", name, make, BATCHED, call=call or by_graph, width=WIDTH)


def plain(layer: Callable[..., Tensor], x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Give a layer nothing but features; read the rest, as an input that nothing reads is refused."""
    del num_graphs
    return layer(x) + x[edge_index[0]].sum() * 0 + batch.sum() * 0


def by_graph(layer: Callable[..., Tensor], x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Give a layer the graph of each node and how many graphs there are."""
    return layer(x, batch, num_graphs) + x[edge_index[0]].sum() * 0


def by_ids(layer: Callable[..., Tensor], x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Give a layer the graph of each node only."""
    del num_graphs
    return layer(x, batch) + x[edge_index[0]].sum() * 0


def message_norm(layer: Callable[..., Tensor], x: Tensor, edge_index: Tensor) -> Tensor:
    """Scale messages as DeeperGCN does."""
    return layer(x, torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]]))


NORMS = (
    norm("BatchNorm", lambda: pyg.BatchNorm(WIDTH), call=plain),
    norm("LayerNorm of nodes", lambda: pyg.LayerNorm(WIDTH, mode="node"), call=plain),
    norm("LayerNorm of graphs", lambda: pyg.LayerNorm(WIDTH)),
    norm("InstanceNorm", lambda: pyg.InstanceNorm(WIDTH, affine=True)),
    norm("GraphNorm", lambda: pyg.GraphNorm(WIDTH)),
    norm("GraphSizeNorm", lambda: pyg.GraphSizeNorm()),
    norm("PairNorm", lambda: pyg.PairNorm(), call=by_ids),
    norm("MeanSubtractionNorm", lambda: pyg.MeanSubtractionNorm(), call=by_graph),
    norm("DiffGroupNorm", lambda: pyg.DiffGroupNorm(WIDTH, 3), call=plain),
    wrapped("norm", "MessageNorm", lambda: pyg.MessageNorm(learn_scale=True), call=message_norm, width=WIDTH),
)


class Readout(nn.Module):
    """A convolution, then one answer for each graph."""

    def __init__(self, layer: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv, self.layer, self.call = pyg.GraphConv(WIDTH, WIDTH), layer, call

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Answer for graphs."""
        return self.call(self.layer, self.conv(x, edge_index).relu(), edge_index, batch, num_graphs)


def readout(name: str, make: Callable[[], Any], call: Callable[..., Tensor]) -> Recipe:
    """Return the recipe of a readout."""
    return Recipe("readout", name, lambda: Readout(_module(make()), call), BATCHED)


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Tensor:
        return self.function(*arguments)


def _module(made: Any) -> nn.Module:
    return made if isinstance(made, nn.Module) else _Function(made)


def by_size(layer: Callable[..., Tensor], x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Call a pooling function."""
    return layer(x, batch, num_graphs)


def aggregated(layer: Callable[..., Tensor], x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Call an aggregation over the nodes of each graph."""
    return layer(x, batch, dim_size=num_graphs)


def pooled(layer: Callable[..., Any], x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Keep some of the nodes of each graph and take the mean of those."""
    x, _, _, batch, *_ = layer(x, edge_index, None, batch)
    return pyg.global_mean_pool(x, batch, num_graphs)


def merged(layer: Callable[..., Any], x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Merge the nodes of some edges and take the mean of what is left."""
    x, _, batch, _ = layer(x, edge_index, batch)
    return pyg.global_mean_pool(x, batch, num_graphs)


READOUTS = (
    readout("sum", lambda: pyg.global_add_pool, by_size),
    readout("mean", lambda: pyg.global_mean_pool, by_size),
    readout("max", lambda: pyg.global_max_pool, by_size),
    readout("attention", lambda: aggr.AttentionalAggregation(nn.Linear(WIDTH, 1)), aggregated),
    readout("softmax", lambda: aggr.SoftmaxAggregation(), aggregated),
    readout("set2set", lambda: aggr.Set2Set(WIDTH, 2), aggregated),
    readout("sort", lambda: aggr.SortAggregation(k=3), aggregated),
    readout("median", lambda: aggr.MedianAggregation(), aggregated),
    readout("lstm", lambda: aggr.LSTMAggregation(WIDTH, WIDTH), aggregated),
    readout("graph multiset transformer", lambda: aggr.GraphMultisetTransformer(WIDTH, k=4), aggregated),
    readout("set transformer", lambda: aggr.SetTransformerAggregation(WIDTH), aggregated),
    readout("deep sets", lambda: aggr.DeepSetsAggregation(nn.Linear(WIDTH, WIDTH), None), aggregated),
    readout("equilibrium", lambda: aggr.EquilibriumAggregation(WIDTH, HIDDEN, [HIDDEN]), aggregated),
    readout("top-k pooling", lambda: pyg.TopKPooling(WIDTH, 0.5), pooled),
    readout("top-k pooling by score", lambda: pyg.TopKPooling(WIDTH, min_score=0.1), pooled),
    readout("SAG pooling", lambda: pyg.SAGPooling(WIDTH, 0.5), pooled),
    readout("ASA pooling", lambda: pyg.ASAPooling(WIDTH, 0.5), pooled),
    readout("edge pooling", lambda: pyg.EdgePooling(WIDTH), merged),
)
