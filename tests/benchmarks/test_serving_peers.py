from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch_geometric.typing

from benchmarks import peer_ways
from benchmarks.paper_sage import PaperSage
from benchmarks.peer_ways import DEPTH, Asked
from benchmarks.real_data import ROOT
from benchmarks.room import LeftOut
from benchmarks.serving_peers import PRUNED, UNPRUNED, WARM
from gnnexport.frontends.neighbour_baseline import Neighbourhood
from gnnexport.frontends.signature import match_inputs
from gnnexport.program.data import GraphData

NODES, EDGES, FEATURES = 120, 300, 16
OWN = ("our search + PyTorch", "our search + PyTorch, layers trimmed")


@pytest.fixture
def data() -> GraphData:
    """Return a graph with nodes that nothing leads to."""
    random = torch.Generator().manual_seed(0)
    edge_index = torch.randint(0, NODES // 2, (2, EDGES), generator=random)
    return GraphData("some", {"x": torch.randn(NODES, FEATURES, generator=random), "edge_index": edge_index})


@pytest.fixture
def model() -> PaperSage:
    """Return an untrained model."""
    torch.manual_seed(0)
    return PaperSage(FEATURES, 3, 8).eval()


def test_every_contender_agrees(tmp_path):
    """On a small graph ours and PyTorch answer as the whole graph does; who is left out says why."""
    random = np.random.default_rng(0)
    arrays = {"x": random.standard_normal((NODES, FEATURES)).astype(np.float32), "y": np.arange(NODES) % 3}
    np.savez(tmp_path / "small.npz", edge_index=random.integers(0, NODES, (2, EDGES)), **arrays)
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.serving_peers", "--data=small", "--quick", "--threads=1"]
    environment = {**os.environ, "GNNEXPORT_DATA": str(tmp_path)}
    done = subprocess.run([*command, f"--output={path}"], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    tables = json.loads(path.read_text())["tables"]
    assert [(table["fanout"], table["size"]) for table in tables] == [
        (None, 1),
        (None, 8),
        ([25, 10], 1),
        ([25, 10], 8),
    ]
    for table in tables:
        rows = {row["name"]: row for row in table["rows"]}
        assert {UNPRUNED, PRUNED, WARM} <= set(rows)
        assert set(OWN) <= set(table["left_out"] if table["fanout"] else rows)
        assert len(rows) + len(table["left_out"]) == 8
        assert all(f"{name}: left out, {reason}" in done.stdout for name, reason in table["left_out"].items())
        if table["fanout"] is None:
            assert all(row["max_rel_error"] < 1e-4 for row in rows.values())


@pytest.mark.parametrize("trimmed", [False, True])
def test_the_loader_is_asked_in_order(model, data, trimmed, monkeypatch):
    """One loader has all requests of a size, starts anew when they are through, and its batches give the answers."""
    around = Neighbourhood(data, match_inputs(model, data), DEPTH)
    made = []

    class Loader:
        def __init__(self, graph, num_neighbors, input_nodes, batch_size):
            made.append((num_neighbors, batch_size))
            self.batches = input_nodes.split(batch_size)

        def __iter__(self):
            return iter(SimpleNamespace(**around.of(nodes).inputs) for nodes in self.batches)

    monkeypatch.setattr(peer_ways, "NeighborLoader", Loader)
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SPARSE", True)
    asked = Asked(np.arange(NODES).reshape(3, -1), None)
    way = peer_ways.pyg(model, data, asked, trimmed=trimmed)
    with torch.inference_mode():
        expected = model(**data.inputs).numpy()
    for nodes in (*asked.nodes, asked.nodes[0]):
        np.testing.assert_allclose(way(), expected[nodes], atol=1e-5)
    assert made == [([-1, -1], NODES // 3)]


def test_trimmed_layers_give_fewer_rows():
    """The last layer gives the rows asked for; the first those and the ones that lead there."""
    (first, reached), (last, size) = peer_ways._trim(torch.tensor([[1, 2, 3, 4, 5], [0, 0, 1, 2, 3]]), 1)
    assert (reached, size) == (3, 1)
    assert (first.tolist(), last.tolist()) == ([[1, 2, 3, 4], [0, 0, 1, 2]], [[1, 2], [0, 0]])


def test_a_missing_library_is_a_reason(model, data, monkeypatch):
    """Without what PyG samples with there is no loader, and a search for all neighbours draws none."""
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SPARSE", False)
    monkeypatch.setattr(torch_geometric.typing, "WITH_PYG_LIB", False)
    asked = Asked(np.zeros((1, 1), np.int64), (2, 2))
    with pytest.raises(LeftOut, match="torch_sparse and torch_scatter"):
        peer_ways.pyg(model, data, asked, trimmed=False)
    with pytest.raises(LeftOut, match="reads all neighbours"):
        peer_ways.own_search(model, data, match_inputs(model, data), asked, trimmed=False)
