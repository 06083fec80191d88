"""Real sets of graphs: exported once, a model answers for graphs of any size as PyTorch does."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GINConv, Sequential, global_add_pool

from benchmarks.real_data import ROOT, find, reason
from gnnexport import api, load
from gnnexport.frontends.data import load_data
from gnnexport.program.data import GraphData
from gnnexport.runtime.runner import Runner

TOLERANCE = 1e-4
HIDDEN = 16


@dataclass(frozen=True)
class Exported:
    """A trained model, the set it was trained on, and its bundle loaded."""

    model: nn.Module
    data: GraphData
    run: Runner

    def error(self, request: dict[str, Tensor], *left_out: str) -> float:
        """Return the largest difference from PyTorch, over the largest output.

        Args:
            request: every input by name.
            left_out: inputs that the bundle is not given.
        """
        with torch.no_grad():
            count = int(request["num_graphs"])
            expected = self.model(request["x"], request["edge_index"], request["batch"], count).numpy()
        feeds = {name: value.numpy() for name, value in request.items() if name not in left_out}
        (got,) = self.run(feeds).values()
        assert got.shape == expected.shape == (count, expected.shape[1])
        return float(np.abs(got - expected).max() / np.abs(expected).max())

    def request(self, *graphs: int) -> dict[str, Tensor]:
        """Return the inputs of some graphs of the set."""
        return dict(self.data.select(torch.tensor(graphs)).inputs)

    def by_size(self) -> list[int]:
        """Return the graphs from the smallest to the largest."""
        return torch.bincount(self.data.inputs["batch"]).argsort().tolist()


def grids_file(folder: Path) -> Path:
    """Write some of the digits, drawn as graphs."""
    graphs = runpy.run_path(str(ROOT / "samples" / "grids" / "train.py"))["grids"](0)
    torch.save({split: part[:100] for split, part in graphs.items()}, folder / "grids.pt")
    return folder / "grids.pt"


def gin(channels: int, classes: int) -> nn.Module:
    """Make two GIN layers with batch normalisation, the sum over each graph, and a linear layer."""

    def layer(width: int) -> GINConv:
        return GINConv(nn.Sequential(nn.Linear(width, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU()), train_eps=True)

    steps = [(layer(channels), "x, edge_index -> x"), (layer(HIDDEN), "x, edge_index -> x")]
    readout = (global_add_pool, "x, batch, num_graphs -> x")
    model: nn.Module = Sequential("x, edge_index, batch, num_graphs", [*steps, readout, nn.Linear(HIDDEN, classes)])
    return model


def train(model: nn.Module, data: GraphData) -> None:
    """Train a little, so that no weight and no statistic is what it started as."""
    assert data.y is not None
    part = data.select(torch.nonzero(data.masks["train"])[:100, 0])
    assert part.y is not None
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        logits = model(part.inputs["x"], part.inputs["edge_index"], part.inputs["batch"], part.num_graphs)
        F.cross_entropy(logits, part.y).backward()
        optimizer.step()
    model.eval()


@pytest.fixture(scope="module", params=["grids", "tu_mutag", "tu_proteins"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """Train on the set and export, once for all tests."""
    folder = tmp_path_factory.mktemp(request.param)
    path = grids_file(folder) if request.param == "grids" else find(request.param)
    if path is None:
        pytest.skip(reason(request.param))
    data, _ = load_data(path)
    assert data.y is not None
    torch.manual_seed(0)
    model = gin(data.inputs["x"].shape[1], int(data.y.max()) + 1)
    train(model, data)
    torch.save(model, folder / "model.pt")
    outcome = api.export(folder / "model.pt", data=path, time_budget="1s")
    assert outcome.exit_code == 0
    assert outcome.report.result.metric == outcome.report.baseline.metric
    with load(outcome.bundle) as run:
        yield Exported(model, data, run)


def test_graphs_of_other_sizes(exported: Exported) -> None:
    """The smallest and the largest graphs alone, and a mixture in which neither comes first."""
    order = exported.by_size()
    for graphs in (order[:1], order[-1:], order[:20], order[-20:], order[:5] + order[-5:] + order[5:7]):
        assert exported.error(exported.request(*graphs)) <= TOLERANCE


def test_one_graph_needs_no_graph_ids(exported: Exported) -> None:
    """Of a single graph `batch` and `num_graphs` may be left out, or `batch` alone."""
    request = exported.request(3)
    assert exported.error(request) <= TOLERANCE
    assert exported.error(request, "batch") <= TOLERANCE
    assert exported.error(request, "batch", "num_graphs") <= TOLERANCE


def test_fifty_graphs(exported: Exported) -> None:
    """A batch of fifty gives what each of its graphs gives alone."""
    request = exported.request(*range(50))
    assert exported.error(request) <= TOLERANCE
    (together,) = exported.run({name: value.numpy() for name, value in request.items()}).values()
    single = exported.request(17)
    (alone,) = exported.run({name: single[name].numpy() for name in ("x", "edge_index")}).values()
    assert np.abs(together[17] - alone[0]).max() <= TOLERANCE * np.abs(together).max()


@pytest.mark.parametrize("place", ["last", "middle", "first"])
def test_a_graph_without_nodes(exported: Exported, place: str) -> None:
    """An empty graph gets the answer for a sum of nothing, and the others keep theirs."""
    request = exported.request(0, 1, 2, 3)
    full = exported.run({name: value.numpy() for name, value in request.items()})["logits"]
    number = {"first": 0, "middle": 2, "last": 4}[place]
    batch = request["batch"]
    empty = {**request, "batch": torch.where(batch >= number, batch + 1, batch), "num_graphs": torch.tensor(5)}
    assert exported.error(empty) <= TOLERANCE
    got = exported.run({name: value.numpy() for name, value in empty.items()})["logits"]
    assert np.abs(np.delete(got, number, axis=0) - full).max() <= TOLERANCE * np.abs(full).max()


def test_graphs_without_edges(exported: Exported) -> None:
    """Nodes without a neighbour, in several graphs and in one."""
    none = torch.zeros(2, 0, dtype=torch.int64)
    for graphs in ((0, 1, 2), (5,)):
        assert exported.error({**exported.request(*graphs), "edge_index": none}) <= TOLERANCE


def test_a_hub_that_training_never_saw(exported: Exported) -> None:
    """A node with three hundred times the neighbours of any in the set, beside an ordinary graph."""
    ordinary = exported.request(0)
    count, leaves = len(ordinary["x"]), 3000
    spokes = torch.stack([torch.arange(1, leaves + 1), torch.zeros(leaves, dtype=torch.int64)]) + count
    star = exported.data.inputs["x"][:1].repeat(leaves + 1, 1)
    request = {
        "x": torch.cat([ordinary["x"], star]),
        "edge_index": torch.cat([ordinary["edge_index"], spokes, spokes.flip(0)], dim=1),
        "batch": torch.cat([ordinary["batch"], torch.ones(leaves + 1, dtype=torch.int64)]),
        "num_graphs": torch.tensor(2),
    }
    assert exported.error(request) <= TOLERANCE
