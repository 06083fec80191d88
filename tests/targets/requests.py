"""Programs for graphs of any size, their requests, and what the files written for them answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import GIN, aggr, global_add_pool, global_max_pool, global_mean_pool

from gnnexport.passes.contract import PassContext
from gnnexport.passes.raise_messages import RaiseMessages
from gnnexport.passes.remove_redundant import RemoveRedundant
from gnnexport.passes.split_structure import SplitStructure
from gnnexport.program.capture import capture
from gnnexport.program.inputs import NUM_GRAPHS, NUM_NODES, NUM_PAIRS, Input, Role
from gnnexport.program.program import Program, example_inputs
from tests.small_models import CLASSES, EDGE_WIDTH, HIDDEN, INPUTS, WIDTH, run
from tests.targets.sketch import Array

BATCH = Input("batch", Role.GRAPH_IDS, "int64", (NUM_NODES,))
COUNT = Input(NUM_GRAPHS, Role.NUM_GRAPHS, "int64", ())
PAIRS = Input("edge_label_index", Role.LABEL_EDGES, "int64", (2, NUM_PAIRS))
TOLERANCE = 1e-5

Request = Mapping[str, Tensor]
Readout = Callable[[Tensor, Tensor, int], Tensor]


def softmax_pool(x: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Weigh the nodes of a graph by a softmax over them."""
    return aggr.SoftmaxAggregation()(x, batch, dim_size=num_graphs)


READOUTS: dict[str, Readout] = {
    "sum": global_add_pool,
    "mean": global_mean_pool,
    "max": global_max_pool,
    "softmax": softmax_pool,
}


class GraphNetwork(nn.Module):
    """GIN, a readout, and a layer on top."""

    def __init__(self, readout: Readout) -> None:
        super().__init__()
        self.layers = GIN(WIDTH, HIDDEN, 2, HIDDEN)
        self.readout = readout
        self.last = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Return one row for each graph."""
        out: Tensor = self.last(self.readout(self.layers(x, edge_index) - 1, batch, num_graphs))
        return out


class PairNetwork(nn.Module):
    """GIN, and the dot product of the two nodes of a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = GIN(WIDTH, HIDDEN, 2, HIDDEN)

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        """Return one number for each pair."""
        h = self.layers(x, edge_index)
        return (h[edge_label_index[0]] * h[edge_label_index[1]]).sum(-1)


@cache
def graph_program(readout: str) -> Program:
    """Capture a network with a readout; nobody may change the result."""
    return prepared(GraphNetwork(READOUTS[readout]), (INPUTS["x"], INPUTS["edge_index"], BATCH, COUNT))


@cache
def pair_program() -> Program:
    """Capture a network over pairs; nobody may change the result."""
    return prepared(PairNetwork(), (INPUTS["x"], INPUTS["edge_index"], PAIRS))


def prepared(model: nn.Module, inputs: tuple[Input, ...]) -> Program:
    """Give a model weights by a seed, capture it, raise its messages and split it."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * 0.3
    context = PassContext()
    captured = capture(model.eval(), inputs, example_inputs(inputs))
    return SplitStructure().run(RaiseMessages().run(RemoveRedundant().run(captured, context), context), context)


def request_of(edge_index: Tensor, num_nodes: int, num_graphs: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Return a request with every input a small model may take; the last graph is empty where there are several."""
    generator = torch.Generator().manual_seed(seed)
    num_edges = edge_index.shape[1]
    return {
        "x": torch.randn(num_nodes, WIDTH, generator=generator),
        "edge_index": edge_index,
        "edge_weight": torch.rand(num_edges, generator=generator) + 0.1,
        "edge_attr": torch.randn(num_edges, EDGE_WIDTH, generator=generator),
        "batch": torch.arange(num_nodes) * max(num_graphs - 1, 1) // num_nodes,
        "num_graphs": torch.tensor(num_graphs),
        "edge_label_index": torch.randint(0, num_nodes, (2, num_nodes + 3), generator=generator),
    }


def random_edges(num_nodes: int, num_edges: int, seed: int = 0) -> Tensor:
    """Draw an edge index with duplicates and self-loops."""
    return torch.randint(0, num_nodes, (2, num_edges), generator=torch.Generator().manual_seed(seed))


def hub_edges(num_nodes: int) -> Tensor:
    """Return a graph in which every node points at the first, and nothing else does."""
    return torch.stack([torch.arange(num_nodes), torch.zeros(num_nodes, dtype=torch.int64)])


def feeds(program: Program, request: Request) -> dict[str, Array]:
    """Return what a runtime is given."""
    return {item.name: np.asarray(request[item.name]) for item in program.inputs}


def agrees(program: Program, request: Request, actual: Array) -> bool:
    """Tell whether a target answered what the Program answers in PyTorch."""
    expected = run(program, request).numpy()
    assert actual.shape == expected.shape
    return bool(abs(actual - expected).max(initial=0) <= TOLERANCE * max(1.0, abs(expected).max(initial=0)))


def only_file(folder: Path, ending: str) -> Path:
    """Return the one file with this ending."""
    (found,) = folder.glob(f"*{ending}")
    return found
