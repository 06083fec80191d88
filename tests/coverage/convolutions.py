"""The 43 convolutions that take `(x, edge_index)` and what belongs to edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg

from tests.coverage.recipe import (
    ATTRIBUTED,
    EDGE_WIDTH,
    HIDDEN,
    PLAIN,
    RELATIONS,
    TYPED,
    WEIGHTED,
    WIDTH,
    Recipe,
    wrapped,
)

GROUP = "convolution"


def mlp(first: int = WIDTH, last: int = HIDDEN) -> nn.Module:
    """Make the network that some layers take."""
    return nn.Sequential(nn.Linear(first, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, last))


def conv(name: str, inputs: tuple[str, ...] = PLAIN, *arguments: Any, **options: Any) -> Recipe:
    """Return the recipe of a convolution; arguments that are functions are called, as they make modules."""
    extra = {key: options.pop(key) for key in ("call", "width", "edges") if key in options}

    def make() -> nn.Module:
        made = [item() if callable(item) else item for item in arguments]
        named = {key: item() if callable(item) else item for key, item in options.items()}
        layer: nn.Module = getattr(pyg, name)(*made, **named)
        return layer

    return wrapped(GROUP, name, make, inputs, **extra)


def halves(layer: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """Give DNA two former layers of half the channels."""
    return layer(x.view(x.size(0), 2, WIDTH // 2), *others)


def first(layer: Callable[..., Any], *arguments: Tensor) -> Tensor:
    """Take the first of several results."""
    return torch.as_tensor(layer(*arguments)[0])


def by_name(layer: Callable[..., Tensor], x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
    """Give edge features by name, as they are not the third argument."""
    return layer(x, edge_index, edge_attr=edge_attr)


def four_each(num_nodes: int) -> Tensor:
    """Return edges of a mesh: every node has four neighbours."""
    node = torch.arange(num_nodes).repeat_interleave(4)
    step = torch.arange(1, 5).repeat(num_nodes)
    return torch.stack([(node + step) % max(num_nodes, 1), node])


def degrees() -> Tensor:
    """Return the histogram of in-degrees that PNA wants."""
    return torch.tensor([2, 5, 7, 4, 1])


CONVOLUTIONS = (
    conv("GCNConv", WEIGHTED, WIDTH, HIDDEN),
    conv("ChebConv", WEIGHTED, WIDTH, HIDDEN, K=3),
    conv("SAGEConv", PLAIN, WIDTH, HIDDEN),
    conv("GraphConv", WEIGHTED, WIDTH, HIDDEN),
    conv("GatedGraphConv", WEIGHTED, HIDDEN, num_layers=2),
    conv("ResGatedGraphConv", ATTRIBUTED, WIDTH, HIDDEN, edge_dim=EDGE_WIDTH),
    conv("GATConv", ATTRIBUTED, WIDTH, HIDDEN // 2, heads=2, edge_dim=EDGE_WIDTH),
    conv("GATv2Conv", ATTRIBUTED, WIDTH, HIDDEN // 2, heads=2, edge_dim=EDGE_WIDTH),
    conv("TransformerConv", ATTRIBUTED, WIDTH, HIDDEN // 2, heads=2, edge_dim=EDGE_WIDTH, beta=True),
    conv("AGNNConv"),
    conv("TAGConv", WEIGHTED, WIDTH, HIDDEN),
    conv("GINConv", PLAIN, mlp, train_eps=True),
    conv("GINEConv", ATTRIBUTED, mlp, edge_dim=EDGE_WIDTH),
    conv("ARMAConv", WEIGHTED, WIDTH, HIDDEN, num_stacks=2, num_layers=2),
    conv("SGConv", WEIGHTED, WIDTH, HIDDEN, K=2),
    conv("SSGConv", WEIGHTED, WIDTH, HIDDEN, alpha=0.1, K=2),
    conv("APPNP", WEIGHTED, K=3, alpha=0.1),
    conv("MFConv", PLAIN, WIDTH, HIDDEN, max_degree=4),
    conv("RGCNConv", TYPED, WIDTH, HIDDEN, RELATIONS),
    conv("FastRGCNConv", TYPED, WIDTH, HIDDEN, RELATIONS),
    conv("RGATConv", TYPED, WIDTH, HIDDEN, RELATIONS),
    conv("DNAConv", WEIGHTED, WIDTH // 2, call=halves, width=WIDTH // 2),
    conv("GMMConv", ATTRIBUTED, WIDTH, HIDDEN, dim=EDGE_WIDTH, kernel_size=3),
    conv("NNConv", ATTRIBUTED, WIDTH, HIDDEN, lambda: mlp(EDGE_WIDTH, WIDTH * HIDDEN)),
    conv("CGConv", ATTRIBUTED, WIDTH, dim=EDGE_WIDTH),
    conv("EdgeConv", PLAIN, lambda: mlp(2 * WIDTH)),
    conv("FeaStConv", PLAIN, WIDTH, HIDDEN, heads=2),
    conv("LEConv", WEIGHTED, WIDTH, HIDDEN),
    conv(
        "PNAConv", ATTRIBUTED, WIDTH, HIDDEN, aggregators=["mean", "min", "max", "std"],
        scalers=["identity", "amplification", "attenuation"], deg=degrees, edge_dim=EDGE_WIDTH,
    ),
    conv("ClusterGCNConv", PLAIN, WIDTH, HIDDEN),
    conv("GENConv", ATTRIBUTED, WIDTH, HIDDEN, edge_dim=EDGE_WIDTH),
    conv("PANConv", PLAIN, WIDTH, HIDDEN, filter_size=2, call=first),
    conv("FiLMConv", TYPED, WIDTH, HIDDEN, num_relations=RELATIONS),
    conv("SuperGATConv", PLAIN, WIDTH, HIDDEN),
    conv("EGConv", PLAIN, WIDTH, HIDDEN, aggregators=["symnorm", "max", "std"], num_heads=2),
    conv("PDNConv", ATTRIBUTED, WIDTH, HIDDEN, edge_dim=EDGE_WIDTH, hidden_channels=HIDDEN),
    conv("GeneralConv", ATTRIBUTED, WIDTH, HIDDEN, in_edge_channels=EDGE_WIDTH, attention=True, heads=2),
    conv("LGConv", WEIGHTED),
    conv("GPSConv", PLAIN, WIDTH, lambda: pyg.GINConv(mlp()), heads=2),
    conv("AntiSymmetricConv", PLAIN, WIDTH),
    conv("DirGNNConv", PLAIN, lambda: pyg.SAGEConv(WIDTH, HIDDEN)),
    conv("MixHopConv", WEIGHTED, WIDTH, HIDDEN, powers=[0, 1, 2], width=3 * HIDDEN),
    conv("MeshCNNConv", PLAIN, WIDTH, HIDDEN, edges=four_each),
)  # fmt: skip
"""In the order in which PyG lists them."""
