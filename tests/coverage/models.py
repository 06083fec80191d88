"""The trainable GNN models of `torch_geometric.nn.models` that take `(x, edge_index)` and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg

from tests.coverage.recipe import (
    ATTRIBUTED,
    BATCHED,
    CLASSES,
    EDGE_WIDTH,
    HIDDEN,
    PLAIN,
    WEIGHTED,
    WIDTH,
    Recipe,
)

GROUP = "model"


def basic(name: str, note: str = "", inputs: tuple[str, ...] = PLAIN, **options: Any) -> Recipe:
    """Return the recipe of a model that stacks one kind of layer."""

    def make() -> nn.Module:
        made = {key: item() if callable(item) else item for key, item in options.items()}
        model: nn.Module = getattr(pyg, name)(WIDTH, HIDDEN, 3, CLASSES, **made)
        return model

    return Recipe(GROUP, f"{name}{note and ', '}{note}", make, inputs)


class OnGraphs(nn.Module):
    """A model whose forward has arguments of other names, or in another order."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Call the model."""
        return torch.as_tensor(self.call(self.model, x, edge_index, batch, num_graphs))


class OnNodes(nn.Module):
    """A model that is called in a way of its own."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Call the model."""
        return torch.as_tensor(self.call(self.model, x, edge_index))


class OnEdges(nn.Module):
    """A model over edges with features, in graphs."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Call the model."""
        return torch.as_tensor(self.call(self.model, x, edge_index, edge_attr, batch, num_graphs))


def called(
    name: str, make: Callable[[], nn.Module], call: Callable[..., Any], kind: type[nn.Module] = OnNodes
) -> Recipe:
    """Return the recipe of a model that is called in a way of its own."""
    inputs = {OnNodes: PLAIN, OnGraphs: BATCHED, OnEdges: (*ATTRIBUTED, "batch", "num_graphs")}[kind]
    return Recipe(GROUP, name, lambda: kind(make(), call), inputs)  # type: ignore[call-arg]


def links(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    """Encode, and score every edge."""
    return torch.as_tensor(model.encode(x, edge_index))


def deep() -> nn.Module:
    """Make three residual layers of DeeperGCN."""
    layers = [
        (
            pyg.DeepGCNLayer(pyg.GENConv(WIDTH, WIDTH), pyg.LayerNorm(WIDTH), nn.ReLU(), block="res+"),
            "x, edge_index -> x",
        )
        for _ in range(3)
    ]
    model: nn.Module = pyg.Sequential("x, edge_index", [*layers, (nn.Linear(WIDTH, CLASSES), "x -> x")])
    return model


MODELS = (
    basic("GCN", inputs=WEIGHTED),
    basic("GCN", "batch norm", norm="batch_norm"),
    basic("GraphSAGE"),
    basic("GraphSAGE", "jumping knowledge cat", jk="cat"),
    basic("GraphSAGE", "jumping knowledge max", jk="max"),
    basic("GraphSAGE", "jumping knowledge lstm", jk="lstm"),
    basic("GraphSAGE", "lstm aggregation", aggr="lstm"),
    basic("GIN"),
    basic("GAT", "4 heads", ATTRIBUTED, heads=4, edge_dim=EDGE_WIDTH),
    basic("GAT", "v2", v2=True, heads=2),
    basic(
        "PNA", "", aggregators=["mean", "max", "std"], scalers=["identity", "amplification"],
        deg=lambda: torch.tensor([2, 5, 7, 4, 1]),
    ),
    basic("EdgeCNN"),
    called("DeepGCNLayer, three residual", deep, lambda model, x, edges: model(x, edges)),
    called("GAE", lambda: pyg.GAE(pyg.GCN(WIDTH, HIDDEN, 2, CLASSES)), links),
    called("VGAE", lambda: pyg.VGAE(_Twice()), links),
    called("ARGA", lambda: pyg.ARGA(pyg.GCN(WIDTH, HIDDEN, 2, CLASSES), nn.Linear(CLASSES, 1)), links),
    called("DeepGraphInfomax", lambda: pyg.DeepGraphInfomax(
        HIDDEN, pyg.GCN(WIDTH, HIDDEN, 2), lambda z, *_: z.mean(0), lambda x, e: (x.flip(0), e)
    ), lambda model, x, edges: model.encoder(x, edges)),
    called("GraphUNet", lambda: pyg.GraphUNet(WIDTH, HIDDEN, CLASSES, 2), lambda model, x, edges: model(x, edges)),
    called(
        "AttentiveFP", lambda: pyg.AttentiveFP(WIDTH, HIDDEN, CLASSES, EDGE_WIDTH, 2, 2),
        lambda model, x, edges, attr, batch, count: model(x, edges, attr, batch), OnEdges,
    ),
    called("RECT_L", lambda: pyg.RECT_L(WIDTH, CLASSES), lambda model, x, edges: model(x, edges)),
    called("LINKX", lambda: pyg.LINKX(40, WIDTH, HIDDEN, CLASSES, 2), lambda model, x, edges: model(x, edges)),
    called("PMLP", lambda: pyg.PMLP(WIDTH, HIDDEN, CLASSES, 3), lambda model, x, edges: model(x, edges)),
    called("GroupAddRev", lambda: pyg.Sequential("x, edge_index", [
        (pyg.GroupAddRev(pyg.SAGEConv(WIDTH // 2, WIDTH // 2), num_groups=2), "x, edge_index -> x"),
        (nn.Linear(WIDTH, CLASSES), "x -> x"),
    ]), lambda model, x, edges: model(x, edges)),
    called(
        "NeuralFingerprint", lambda: pyg.NeuralFingerprint(WIDTH, HIDDEN, CLASSES, 2),
        lambda model, x, edges, batch, count: model(x, edges, batch, batch_size=count), OnGraphs,
    ),
    called(
        "SGFormer", lambda: pyg.SGFormer(WIDTH, HIDDEN, CLASSES),
        lambda model, x, edges, batch, count: model(x, edges, batch), OnGraphs,
    ),
    called(
        "Polynormer", lambda: pyg.Polynormer(WIDTH, HIDDEN, CLASSES),
        lambda model, x, edges, batch, count: model(x, edges, batch), OnGraphs,
    ),
    called(
        "GPSConv with attention over graphs", lambda: pyg.GPSConv(WIDTH, pyg.GCNConv(WIDTH, WIDTH), heads=2),
        lambda model, x, edges, batch, count: model(x, edges, batch), OnGraphs,
    ),
)  # fmt: skip


class _Twice(nn.Module):
    """The encoder of a variational autoencoder: mean and spread."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = pyg.GCNConv(WIDTH, CLASSES), pyg.GCNConv(WIDTH, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x, edge_index), self.spread(x, edge_index)
