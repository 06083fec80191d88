"""Small models of every family, their inputs, and their Programs, captured once."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GAT, GCN, GIN, PNA, GCNConv, GraphSAGE, SAGEConv, Sequential
from torch_geometric.utils import scatter, softmax

from gnnexport.passes.contract import PassContext
from gnnexport.passes.raise_messages import RaiseMessages
from gnnexport.passes.remove_redundant import RemoveRedundant
from gnnexport.passes.split_structure import SplitStructure
from gnnexport.program.capture import capture
from gnnexport.program.inputs import NUM_EDGES, NUM_NODES, Input, Role
from gnnexport.program.program import Program, example_inputs

WIDTH, HIDDEN, CLASSES, EDGE_WIDTH = 6, 16, 3, 4

INPUTS = {
    "x": Input("x", Role.NODE_FEATURES, "float32", (NUM_NODES, WIDTH)),
    "edge_index": Input("edge_index", Role.EDGE_INDEX, "int64", (2, NUM_EDGES)),
    "edge_weight": Input("edge_weight", Role.EDGE_WEIGHT, "float32", (NUM_EDGES,)),
    "edge_attr": Input("edge_attr", Role.EDGE_FEATURES, "float32", (NUM_EDGES, EDGE_WIDTH)),
}
PLAIN = ("x", "edge_index")
WEIGHTED = (*PLAIN, "edge_weight")
ATTRIBUTED = (*PLAIN, "edge_attr")

Forward = Callable[["Handwritten", Tensor, Tensor], Tensor]


class Handwritten(nn.Module):
    """A model whose forward is written out by hand."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 8)
        self.middle = nn.Linear(8, 8)
        self.last = nn.Linear(8, CLASSES)
        self.dropout = nn.Dropout(0.4)
        self.norm = nn.BatchNorm1d(8)
        self.table = nn.Parameter(torch.randn(1, 8))
        self.written = forward

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Run what was written."""
        return self.written(self, x, edge_index)


def summed(h: Tensor, edge_index: Tensor, reduce: str = "sum") -> Tensor:
    """Reduce the neighbours' rows."""
    return scatter(h[edge_index[0]], edge_index[1], 0, h.size(0), reduce)


def index_add(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Sum into zeros made for the purpose."""
    h = model.first(x)
    return model.last(torch.zeros(x.size(0), 8).index_add_(0, edge_index[1], h[edge_index[0]]).relu_())


def zeros_like(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Sum into zeros made like the features."""
    h = model.first(x)
    index = edge_index[1].unsqueeze(-1).expand(-1, 8)
    return model.last(torch.zeros_like(h).scatter_add_(0, index, h[edge_index[0]]) + h)


def views(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Reshape by the number of nodes."""
    h = model.first(x).view(x.size(0), 2, 4)
    return model.last(summed(h, edge_index, "mean").view(x.size(0), -1))


def two_structures(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Normalise by source what is then summed by destination."""
    h = model.first(x)
    score = h[:, 0]
    share = softmax(score[edge_index[0]] + score[edge_index[1]], edge_index[0], num_nodes=x.size(0))
    out = scatter(h[edge_index[0]] * share[:, None], edge_index[1], 0, x.size(0), "sum")
    return model.last(out)


def masked(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Keep edges by a mask that happens to keep them all."""
    h = model.first(x)
    keep = edge_index[0] >= 0
    return model.last(scatter(h[edge_index[0]][keep], edge_index[1][keep], 0, x.size(0), "max"))


def narrow_index(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Scatter only the first channel: the index is one wide."""
    h = model.first(x)
    return model.last(torch.zeros(x.size(0), 8).scatter_add_(0, edge_index[1][:, None], h[edge_index[0]]))


def multiplied(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Multiply the neighbours' rows."""
    return model.last(summed(model.first(x).sigmoid() + 0.5, edge_index, "mul"))


def switched(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Multiply messages by what is true or false of their edges."""
    keep = (edge_index[0] != edge_index[1]).view(-1, 1)
    return model.last(scatter(model.first(x)[edge_index[0]] * keep, edge_index[1], 0, x.size(0), "sum"))


def stacked(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Sum weighted neighbours in three stacks at once: nodes and edges are the second dimension."""
    h = model.first(x) * torch.arange(1.0, 4.0).view(3, 1, 1)
    weight = (edge_index[0] + 1.0).rsqrt().view(-1, 1)
    return model.last(scatter(weight * h.index_select(-2, edge_index[0]), edge_index[1], -2, x.size(0)).mean(0))


def stacked_max(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Take the largest neighbour in channels that stand in front of nodes."""
    messages = model.first(x).t()[:, edge_index[0]]
    return model.last(scatter(messages, edge_index[1], -1, x.size(0), "max").t())


def attended(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Let the two halves of a message attend to each other before messages are summed."""
    h = model.first(x).view(-1, 2, 4)
    ours, theirs = h[edge_index[1]], h[edge_index[0]]
    scores = ours @ theirs.transpose(1, 2)
    scores = scores - scores.max(-1, keepdim=True)[0]
    messages = (scores.softmax(-1) @ theirs).reshape(-1, 8)
    return model.last(scatter(messages, edge_index[1], 0, x.size(0), "sum"))


def sorted_channels(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Add up messages along the edges, which hangs on the order of the edges."""
    messages = model.first(x)[edge_index[0]].tanh().cumsum(0) / edge_index.size(1)
    return model.last(scatter(messages, edge_index[1], 0, x.size(0), "sum"))


def residual(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Add a layer's result to what it read."""
    h = model.first(x).relu()
    return model.last(model.dropout(h + model.middle(summed(h, edge_index, "mean")).relu()))


def edge_dropout(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Drop edges in training."""
    weight = model.dropout(torch.ones(edge_index.size(1)))
    h = model.first(x)
    return model.last(scatter(h[edge_index[0]] * weight[:, None], edge_index[1], 0, x.size(0), "sum"))


def shared_norm(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Use one batch normalisation twice."""
    h = model.norm(model.first(x)).relu()
    return model.last(model.norm(model.middle(summed(h, edge_index, "mean"))).relu())


WRITTEN: dict[str, Forward] = {
    forward.__name__: forward
    for forward in (index_add, zeros_like, views, two_structures, masked, narrow_index, multiplied, switched,
                    stacked, stacked_max, attended, sorted_channels,
                    residual, edge_dropout,
                    shared_norm)
}  # fmt: skip

_PNA: dict[str, Any] = {
    "aggregators": ["mean", "min", "max", "std"],
    "scalers": ["identity", "amplification", "attenuation"],
    "deg": torch.tensor([1, 4, 6, 3, 2, 1]),
}


def sequential() -> nn.Module:
    """Build PyG's Sequential with an in-place activation and a residual sum."""
    random.seed()  # PyG reuses generated code of the same random name, and Hypothesis seeds the generator
    steps: list[Any] = [
        (GCNConv(WIDTH, 8), "x, edge_index -> x"),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        (SAGEConv(8, 8), "x, edge_index -> h"),
        (lambda x, h: x + h, "x, h -> x"),
        nn.Linear(8, CLASSES),
    ]
    return Sequential("x, edge_index", steps)


def _basic(cls: type[nn.Module], layers: int = 2, **options: Any) -> Callable[[], nn.Module]:
    return lambda: cls(WIDTH, HIDDEN, layers, CLASSES, **options)


BUILDERS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "GCN": (_basic(GCN), PLAIN),
    "GCN weighted": (_basic(GCN), WEIGHTED),
    "GCN not normalised": (_basic(GCN, normalize=False), PLAIN),
    "GCN without self-loops": (_basic(GCN, add_self_loops=False), WEIGHTED),
    "GCN improved": (_basic(GCN, improved=True, bias=False), PLAIN),
    "GCN batch norm": (_basic(GCN, 3, norm="batch_norm", dropout=0.5), PLAIN),
    "GCN batch norm of the batch": (_basic(GCN, norm="batch_norm", norm_kwargs={"track_running_stats": False}), PLAIN),
    "GCN batch norm without affine": (_basic(GCN, norm="batch_norm", norm_kwargs={"affine": False}), PLAIN),
    "GCN layer norm": (_basic(GCN, norm="layer_norm", norm_kwargs={"mode": "node"}), PLAIN),
    "GCN graph layer norm": (_basic(GCN, norm="layer_norm"), PLAIN),
    "GCN jumping knowledge": (_basic(GCN, jk="cat"), PLAIN),
    "GraphSAGE": (_basic(GraphSAGE), PLAIN),
    "GraphSAGE max": (_basic(GraphSAGE, aggr="max"), PLAIN),
    "GraphSAGE project": (_basic(GraphSAGE, project=True), PLAIN),
    "GraphSAGE normalised": (_basic(GraphSAGE, normalize=True, root_weight=False), PLAIN),
    "GIN": (_basic(GIN, train_eps=True, norm="batch_norm"), PLAIN),
    "GAT": (_basic(GAT, heads=2), PLAIN),
    "GAT edge features": (_basic(GAT, heads=2, edge_dim=EDGE_WIDTH), ATTRIBUTED),
    "GATv2": (_basic(GAT, heads=2, v2=True), PLAIN),
    "PNA": (_basic(PNA, **_PNA), PLAIN),
    "Sequential": (sequential, PLAIN),
    **{name: (lambda forward=forward: Handwritten(forward), PLAIN) for name, forward in WRITTEN.items()},
}
"""What builds each model, and the names of its inputs."""


def inputs_of(name: str) -> tuple[Input, ...]:
    """Return a model's inputs."""
    return tuple(INPUTS[key] for key in BUILDERS[name][1])


@cache
def model(name: str) -> nn.Module:
    """Build a model with weights and statistics that no initialisation leaves at zero or one."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        built = BUILDERS[name][0]().eval()
        for tensor in (*built.parameters(), *built.buffers()):
            if tensor.is_floating_point() and tensor.dim() <= 1:
                tensor.data.add_(0.3 * torch.rand_like(tensor))
    return built


def run_model(name: str, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run a model in PyTorch."""
    with torch.no_grad():
        result: Tensor = model(name)(**{key: inputs[key] for key in BUILDERS[name][1]})
    return result


@cache
def captured(name: str) -> Program:
    """Capture a model; nobody may change the result."""
    return capture(model(name), inputs_of(name), example_inputs(inputs_of(name)))


@cache
def raised(name: str) -> Program:
    """Capture a model and raise its messages."""
    return RaiseMessages().run(RemoveRedundant().run(captured(name), PassContext()), PassContext())


@cache
def split(name: str) -> Program:
    """Capture, raise and split a model."""
    return SplitStructure().run(raised(name), PassContext())


def run(program: Program, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run a Program without gradients."""
    with torch.no_grad():
        result: Tensor = program(inputs)
    return result


def ops(program: Program) -> list[str]:
    """List the ops of the body, such as `gnn.aggregate`."""
    return [
        str(node.target).removesuffix(".default") for node in program.body.graph.nodes if node.op == "call_function"
    ]
