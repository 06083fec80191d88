"""Models that pass messages, and one graph for them, to leave edges out of; and what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch_geometric.nn import APPNP, GCN2Conv, SAGEConv, SGConv
from torch_geometric.utils import scatter

from gnnexport.passes.contract import PassContext
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.pipeline.steps import CANONICAL, Stepped, run_pass, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.dialect import kernels
from gnnexport.program.edge_layers import find_layers
from gnnexport.program.program import Program, example_inputs
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import CLASSES, INPUTS, PLAIN, WIDTH, model, split

NODES, EDGES = 40, 200
CONVOLUTIONS = ["GCN", "GraphSAGE", "GIN", "GAT", "GATv2"]
FAMILIES = [*CONVOLUTIONS, "GCN weighted", "GAT edge features", "GCN batch norm", "residual", "GCNII", "SGC", "APPNP",
            "SIGN"]  # fmt: skip


class Deep(nn.Module):
    """GCNII of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)
        self.convs = nn.ModuleList(GCN2Conv(8, 0.1, 0.5, layer + 1) for layer in range(3))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Add the first layer's rows to each."""
        h = start = self.first(x).relu()
        for conv in self.convs:
            h = conv(h, start, edge_index).relu()
        out: Tensor = self.last(h)
        return out


class Decoupled(nn.Module):
    """Propagate features, then transform them, or the other way round."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv: nn.Module = SGConv(WIDTH, CLASSES, K=3) if kind == "SGC" else APPNP(K=3, alpha=0.1)
        self.linear = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Answer for each node."""
        out: Tensor = self.conv(x, edge_index) if self.kind == "SGC" else self.conv(self.linear(x), edge_index)
        return out


class Sign(nn.Module):
    """Features of zero to two hops side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * WIDTH, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Average neighbours twice."""
        hops = [x]
        for _ in range(2):
            hops.append(scatter(hops[-1][edge_index[0]], edge_index[1], 0, x.size(0), "mean"))
        out: Tensor = self.linear(torch.cat(hops, -1))
        return out


class SumAndMax(nn.Module):
    """A layer that can lose edges, and one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = SAGEConv(WIDTH, 8, "sum"), SAGEConv(8, CLASSES, "max")

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Sum, then take the largest."""
        out: Tensor = self.second(self.first(x, edge_index).relu(), edge_index)
        return out


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "GCNII": Deep,
    "SGC": lambda: Decoupled("SGC"),
    "APPNP": lambda: Decoupled("APPNP"),
    "SIGN": Sign,
    "sum and max": SumAndMax,
}


@cache
def built(name: str) -> nn.Module:
    """Build a model; nobody may change it."""
    if name not in OTHERS:
        return model(name)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return OTHERS[name]().eval()


@cache
def program_of(name: str) -> Program:
    """Return the simplified Program of a model; nobody may change it."""
    if name not in OTHERS:
        return split(name)
    inputs = tuple(INPUTS[key] for key in PLAIN)
    return run_passes(capture(built(name), inputs, example_inputs(inputs)), CANONICAL, PassContext()).program


def graph(seed: int = 1) -> dict[str, Tensor]:
    """Return a graph with a hub, duplicates, loops and a node without edges."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, NODES - 1, (2, EDGES), generator=generator)
    edges[1, ::5] = 0
    edges[:, 1] = edges[:, 0]
    edges[1, 2] = edges[0, 2]
    return {
        "x": torch.randn(NODES, WIDTH, generator=generator),
        "edge_index": edges,
        "edge_weight": torch.rand(EDGES, generator=generator) + 0.1,
        "edge_attr": torch.randn(EDGES, INPUTS["edge_attr"].shape[1], generator=generator),
    }


def data_of(inputs: dict[str, Tensor]) -> GraphData:
    """Return a graph with labels."""
    rows = len(inputs["x"])
    part = torch.arange(rows) % 3
    masks = {name: part == place for place, name in enumerate(("train", "val", "test"))}
    return GraphData("random", inputs, torch.arange(rows) // 2 % CLASSES, masks)


def context(inputs: dict[str, Tensor] | None = None, notes: list[str] | None = None, epochs: int = 0) -> PassContext:
    """Return the context of a pass on a graph; with epochs, it has a trainer."""
    data = data_of(graph() if inputs is None else inputs)
    trainer = Trainer(data, Task(epochs=epochs)) if epochs else None
    return PassContext(data=data.hide("test"), trainer=trainer, note=([] if notes is None else notes).append)


def frozen(name: str, inputs: dict[str, Tensor] | None = None, **options: object) -> Program:
    """Run the pass as the pipeline does, with what it checks."""
    item = SparsifyEdges(retrain=False, **options)  # type: ignore[arg-type]
    return run_pass(Stepped(program_of(name)), item, context(inputs)).program


def sets(program: Program, inputs: dict[str, Tensor]) -> list[Counter[tuple[int, int]]]:
    """Return source and destination of the edges that each layer reads."""
    program = program.clone()
    program.annotate()
    values = dict(zip(program.structure_names, program.structure(inputs), strict=True))
    found = []
    for layer in find_layers(program):
        row = kernels.rows_of(values[layer.structure.rowptr])
        found.append(Counter(zip(values[layer.col].tolist(), row.tolist(), strict=True)))
    return found


def others(edges: Counter[tuple[int, int]]) -> Counter[tuple[int, int]]:
    """Leave out edges of nodes to themselves."""
    return Counter({pair: count for pair, count in edges.items() if pair[0] != pair[1]})
