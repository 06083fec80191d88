"""The trainable GNN models of `torch_geometric.nn.models`, called as their users call them.

Out of scope, of the names that the package lists:

| name | why |
|---|---|
| MLP, MaskLabel, GPSENodeEncoder | they read no edges |
| JumpingKnowledge, InnerProductDecoder | parts of other models, in whose rows they stand |
| HeteroJumpingKnowledge | a part of models over several kinds of nodes, which have rows of their own |
| Node2Vec, MetaPath2Vec, LightGCN | tables of embeddings of the nodes they were trained on, without features |
| RENet, TGNMemory | they remember a stream of events between requests |
| LPFormer | asks for a matrix of random walks that is made outside, as an object |
| LabelPropagation, CorrectAndSmooth | nothing to train |
| to_captum_model, to_captum_input, captum_output_to_dicts | explain models |
| DimeNet, DimeNetPlusPlus, GNNFF, ViSNet | need compiled packages to list neighbours and triplets of atoms in space |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.data import Data

from tests.coverage.pieces import in_order
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


def basic(
    name: str,
    note: str = "",
    inputs: tuple[str, ...] = PLAIN,
    *,
    edges: Callable[[int], Tensor] | None = None,
    **options: Any,
) -> Recipe:
    """Return the recipe of a model that stacks one kind of layer."""

    def make() -> nn.Module:
        made = {key: item() if callable(item) else item for key, item in options.items()}
        model: nn.Module = getattr(pyg, name)(WIDTH, HIDDEN, 3, CLASSES, **made)
        return model

    return Recipe(GROUP, f"{name}{note and ', '}{note}", make, inputs, edges)


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


class OnPairs(nn.Module):
    """A model that scores pairs of nodes."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        """Call the model."""
        return torch.as_tensor(self.call(self.model, x, edge_index, edge_label_index))


INPUTS: dict[type[nn.Module], tuple[str, ...]] = {
    OnNodes: PLAIN,
    OnGraphs: BATCHED,
    OnEdges: (*ATTRIBUTED, "batch", "num_graphs"),
    OnPairs: (*PLAIN, "edge_label_index"),
}


def called(
    name: str, make: Callable[[], nn.Module], call: Callable[..., Any], kind: type[nn.Module] = OnNodes
) -> Recipe:
    """Return the recipe of a model that is called in a way of its own."""
    inputs = INPUTS[kind]
    return Recipe(GROUP, name, lambda: kind(make(), call), inputs)  # type: ignore[call-arg]


def links(model: Any, x: Tensor, edge_index: Tensor, pairs: Tensor) -> Tensor:
    """Encode nodes, and score pairs of them."""
    return torch.as_tensor(model.decode(model.encode(x, edge_index), pairs))


class AttractRepel(nn.Module):
    """Embeddings by a GCN, scored by attraction and repulsion."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.scorer = pyg.GCN(WIDTH, HIDDEN, 2), pyg.models.ARLinkPredictor(HIDDEN, HIDDEN)

    def forward(self, x: Tensor, edge_index: Tensor, pairs: Tensor) -> Tensor:
        """Answer for pairs."""
        return torch.as_tensor(self.scorer(self.encoder(x, edge_index), pairs))


class Updates(nn.Module):
    """What `MetaLayer` calls for edges, nodes and graphs, in the shape of each."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        widths = {"edge": 2 * WIDTH + EDGE_WIDTH, "node": WIDTH + HIDDEN, "graph": WIDTH}
        self.kind, self.linear = kind, nn.Linear(widths[kind], HIDDEN)

    def forward(self, *given: Tensor) -> Tensor:
        """Update edges from both ends, nodes from their edges, graphs from their nodes."""
        if self.kind == "edge":
            update = torch.cat(given[:3], 1)
        elif self.kind == "node":
            x, edge_index, edges, *_ = given
            update = torch.cat([x, pyg.pool.global_add_pool(edges, edge_index[1], x.size(0))], 1)
        else:
            update = pyg.pool.global_mean_pool(given[0], given[4])
        return torch.as_tensor(self.linear(update).relu())


def meta() -> nn.Module:
    """Make a layer that updates edges, nodes and graphs."""
    layer: nn.Module = pyg.MetaLayer(Updates("edge"), Updates("node"), Updates("graph"))
    return layer


class Atoms(nn.Module):
    """SchNet on atoms whose neighbours are given; numbers and places of atoms are the first features."""

    def __init__(self) -> None:
        super().__init__()
        self.edges: Tensor | None = None
        self.model = pyg.SchNet(HIDDEN, HIDDEN, 2, 4, interaction_graph=self.near)

    def near(self, places: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the given edges and their lengths."""
        del batch
        assert self.edges is not None
        return self.edges, (places[self.edges[0]] - places[self.edges[1]]).square().sum(1).add(1e-6).sqrt()

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Answer for graphs."""
        self.edges = edge_index
        number = (x[:, 3].abs() * 10).to(torch.int64).clamp(max=99)
        try:
            return torch.as_tensor(self.model(number, x[:, :3], batch))
        finally:
            self.edges = None


def reversible() -> nn.Module:
    """Make a reversible block between linear layers."""
    block = pyg.GroupAddRev(pyg.SAGEConv(WIDTH // 2, WIDTH // 2), num_groups=2)
    model: nn.Module = pyg.Sequential("x, edge_index", [
        (nn.Linear(WIDTH, WIDTH), "x -> x"), (block, "x, edge_index -> x"), (nn.Linear(WIDTH, CLASSES), "x -> x"),
    ])  # fmt: skip
    return model


def encodings(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    """Run GPSE as far as the encodings that its users take."""
    return torch.as_tensor(model.mp(model.pre_mp(Data(x=x, edge_index=edge_index))).x)


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
    basic("GraphSAGE", "lstm aggregation", edges=in_order, aggr="lstm"),
    basic("GIN"),
    basic("GAT", "4 heads", ATTRIBUTED, heads=4, edge_dim=EDGE_WIDTH),
    basic("GAT", "v2", v2=True, heads=2),
    basic(
        "PNA", "", aggregators=["mean", "max", "std"], scalers=["identity", "amplification"],
        deg=lambda: torch.tensor([2, 5, 7, 4, 1]),
    ),
    basic("EdgeCNN"),
    called("DeepGCNLayer, three residual", deep, lambda model, x, edges: model(x, edges)),
    called("GAE", lambda: pyg.GAE(pyg.GCN(WIDTH, HIDDEN, 2, CLASSES)), links, OnPairs),
    called("VGAE", lambda: pyg.VGAE(_Twice()), links, OnPairs),
    called("ARGA", lambda: pyg.ARGA(pyg.GCN(WIDTH, HIDDEN, 2, CLASSES), nn.Linear(CLASSES, 1)), links, OnPairs),
    called("ARGVA", lambda: pyg.ARGVA(_Twice(), nn.Linear(CLASSES, 1)), links, OnPairs),
    called("ARLinkPredictor", AttractRepel, lambda model, *given: model(*given), OnPairs),
    called(
        "SignedGCN", lambda: pyg.SignedGCN(WIDTH, HIDDEN, 2), lambda model, x, edges: model(x, edges, edges.flip(0))
    ),
    called("GPSE", lambda: pyg.GPSE(WIDTH, CLASSES, HIDDEN, layers_mp=2), encodings),
    called(
        "MetaLayer", meta, lambda model, x, edges, attr, batch, count: model(x, edges, attr, None, batch)[2], OnEdges
    ),
    called("SchNet on given edges", Atoms, lambda model, x, edges, batch, count: model(x, edges, batch), OnGraphs),
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
    called("PMLP", lambda: pyg.PMLP(WIDTH, HIDDEN, CLASSES, 3, norm=False), lambda model, x, edges: model(x, edges)),
    called("GroupAddRev", reversible, lambda model, x, edges: model(x, edges)),
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
