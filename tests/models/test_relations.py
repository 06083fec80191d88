"""Models over several types of edges, on real data: the export keeps the metric."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn
from torch_geometric.data import HeteroData
from torch_geometric.nn import RGCNConv, Sequential

import gnnexport
from benchmarks.real_data import find, reason
from gnnexport import api
from gnnexport.frontends.data import load_data

CHANNELS = 64
RELATIONS = 4
"""Papers and authors, papers and subjects, each in both directions."""


def papers(folder: Path) -> Path:
    """Write the graph of papers, authors and subjects with the most frequent words of each paper."""
    path = find("hetero_acm")
    if path is None:
        pytest.skip(reason("hetero_acm"))
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    parts = tuple(arrays.pop(f"x_{name}") for name in ("data", "indices", "indptr", "shape"))
    words = sparse.csr_matrix(parts[:3], shape=parts[3])
    frequent = np.sort(np.argsort(-np.bincount(words.indices, minlength=words.shape[1]), kind="stable")[:CHANNELS])
    np.savez(folder / "acm.npz", x=words[:, frequent].toarray(), **arrays)
    return folder / "acm.npz"


def metrics_of(bundle: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the report says of the metric of the original and of the result."""
    report = json.loads((bundle / "report.json").read_text())
    return report["baseline"]["metric"], report["result"]["metric"]


MODEL = """
import torch
from torch_geometric.nn import SAGEConv, to_hetero

KINDS = {"paper": 64, "author": 2, "subject": 2}
EDGES = [
    ("paper", "has", "author"), ("author", "writes", "paper"), ("paper", "about", "subject"), ("subject", "of", "paper")
]

class Sage(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = SAGEConv((-1, -1), 8), SAGEConv((-1, -1), 3)

    def forward(self, x, edge_index):
        return self.last(self.first(x, edge_index).relu(), edge_index)

def build():
    model = to_hetero(Sage(), (list(KINDS), EDGES), aggr="sum")
    nodes = {kind: torch.zeros(1, width) for kind, width in KINDS.items()}
    with torch.no_grad():
        model(nodes, {edges: torch.zeros(2, 1, dtype=torch.int64) for edges in EDGES})
    return model
"""


def kinds(folder: Path, edges: list[tuple[str, str, str]]) -> HeteroData:
    """Write the same graph as PyG keeps several kinds of nodes; authors and subjects have their degrees."""
    data, _ = load_data(papers(folder), split=2)
    node_type, edge_index = data.inputs["node_type"], data.inputs["edge_index"]
    made = HeteroData()
    first = {}
    degree = torch.bincount(edge_index[1], minlength=data.num_nodes).float()
    for number, kind in enumerate(("paper", "author", "subject")):
        chosen = node_type == number
        first[kind] = int(torch.nonzero(chosen)[0])
        made[kind].x = torch.stack([torch.ones(int(chosen.sum())), degree[chosen].log()], 1)
    chosen = node_type == 0
    assert data.y is not None
    made["paper"].x, made["paper"].y = data.inputs["x"][chosen], data.y[chosen]
    for split, mask in data.masks.items():
        made["paper"][f"{split}_mask"] = mask[chosen]
    for number, key in enumerate(edges):
        starts = torch.tensor([[first[key[0]]], [first[key[2]]]])
        made[key].edge_index = edge_index[:, data.inputs["edge_type"] == number] - starts
    torch.save(made, folder / "kinds.pt")
    return made


def train(model: nn.Module, answer: Callable[[], torch.Tensor], y: torch.Tensor, rows: torch.Tensor) -> None:
    """Train for some steps."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(answer()[rows], y[rows]).backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_graphsage_over_three_kinds_of_nodes_keeps_its_metric(mode: str, tmp_path: Path) -> None:
    """A state dict of `to_hetero` with its builder and a `HeteroData`, neither of which needs trust."""
    script = tmp_path / "net.py"
    script.write_text(MODEL)
    names = runpy.run_path(str(script))
    data = kinds(tmp_path, names["EDGES"])
    torch.manual_seed(0)
    model = names["build"]()
    paper = data["paper"]
    train(model, lambda: model(data.x_dict, data.edge_index_dict)["paper"], paper.y, paper.train_mask)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    bundle = api.export(
        tmp_path / "weights.pt", builder=f"{script}:build", data=str(tmp_path / "kinds.pt"), mode=mode,
        output=tmp_path / "bundle", time_budget="1s",
    ).bundle  # fmt: skip
    before, after = metrics_of(bundle)
    assert (before["name"], before["n"], before["level"]) == ("accuracy", 1000, "node")
    assert before["value"] > 0.4
    assert before == after
    with gnnexport.load(bundle) as runner:
        wanted = {"x__paper", "x__author", "x__subject"}
        assert {tensor.name for tensor in runner.inputs if tensor.role == "node_features"} == wanted


CONVS = """
import torch
from torch_geometric.nn import GATConv, GCNConv, HeteroConv, SAGEConv

CITES, WRITES, BY = ("paper", "cites", "paper"), ("author", "writes", "paper"), ("paper", "by-hand", "author")

class Mixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        attention = {"edge_dim": 2, "add_self_loops": False}
        layers = {CITES: GCNConv(5, 8), WRITES: SAGEConv((4, 5), 8), BY: GATConv((5, 4), 8, **attention)}
        self.first = HeteroConv(layers)
        layers = {CITES: GCNConv(8, 3), WRITES: GATConv((8, 8), 3, add_self_loops=False), BY: SAGEConv((8, 8), 3)}
        self.last = HeteroConv(layers, aggr="mean")

    def forward(self, x_dict, edge_index_dict, edge_weight_dict=None, edge_attr_dict=None):
        values = {"edge_weight_dict": edge_weight_dict or {}, "edge_attr_dict": edge_attr_dict or {}}
        found = self.first(x_dict, edge_index_dict, **values)
        found = {kind: value.relu() for kind, value in found.items()}
        return self.last(found, edge_index_dict, edge_weight_dict=values["edge_weight_dict"])
"""


def library(seed: int, papers: int, authors: int, edges: list[tuple[str, str, str]]) -> HeteroData:
    """Make papers and authors, with weights on citations and features on what papers are by."""
    generator = torch.Generator().manual_seed(seed)
    counts, made = {"paper": papers, "author": authors}, HeteroData()
    for kind, width in (("paper", 5), ("author", 4)):
        made[kind].x = torch.randn(counts[kind], width, generator=generator)
    for key in edges:
        ends = [torch.randint(0, counts[key[side]], (3 * papers,), generator=generator) for side in (0, 2)]
        made[key].edge_index = torch.stack(ends)
    made[edges[0]].edge_weight = torch.rand(3 * papers, generator=generator)
    made[edges[2]].edge_attr = torch.randn(3 * papers, 2, generator=generator)
    made["paper"].y = torch.arange(papers) % 3
    for place, split in enumerate(("train", "val", "test")):
        made["paper"][f"{split}_mask"] = torch.arange(papers) // 3 % 3 == place
    return made


@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_layers_of_all_sorts_by_relation_keep_their_numbers(mode: str, tmp_path: Path) -> None:
    """`HeteroConv` of GCN, GraphSAGE and GAT, some between two kinds, with values on some edges that are optional."""
    script = tmp_path / "net.py"
    script.write_text(CONVS)
    names = runpy.run_path(str(script))
    edges = [names["CITES"], names["WRITES"], names["BY"]]
    torch.manual_seed(0)
    model = names["Mixed"]().eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    data = library(0, 40, 30, edges)
    torch.save(data, tmp_path / "library.pt")
    bundle = api.export(
        tmp_path / "weights.pt", builder=f"{script}:Mixed", data=str(tmp_path / "library.pt"), mode=mode,
        output=tmp_path / "bundle", time_budget="1s",
    ).bundle  # fmt: skip
    before, after = metrics_of(bundle)
    assert before == after
    own = {name: value.numpy() for name, value in load_data(tmp_path / "library.pt")[0].inputs.items()}
    np.savez(tmp_path / "own.npz", y__paper=data["paper"].y.numpy(), **own)
    again = api.validate(bundle, data=tmp_path / "own.npz", time_budget="0.1s").report.result.metric
    assert again is not None
    assert again.value == before["value"]
    others = [library(1, 17, 50, edges), library(2, 6, 1, edges)] if mode == "graphs" else []
    with gnnexport.load(bundle) as runner:
        for asked in (data, *others):
            with torch.no_grad():
                weights, features = asked.edge_weight_dict, asked.edge_attr_dict
                wanted = model(asked.x_dict, asked.edge_index_dict, weights, features)["paper"].numpy()
            torch.save(asked, tmp_path / "asked.pt")
            arrays = load_data(tmp_path / "asked.pt")[0].inputs
            read = [tensor.name for tensor in runner.inputs]
            (found,) = runner({name: arrays[name].numpy() for name in read}).values()
            np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    of_edges = {"edge_weight__paper__cites__paper", "edge_attr__paper__by_hand__author"}
    assert of_edges <= set(read) if mode == "graphs" else set(read) == {"x__paper", "x__author"}


@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_an_rgcn_on_papers_keeps_its_metric(mode: str, tmp_path: Path) -> None:
    """As many test papers are told right by the export as by PyTorch."""
    path = papers(tmp_path)
    data, _ = load_data(path)
    torch.manual_seed(0)
    names = "x, edge_index, edge_type"
    layers = [
        (RGCNConv(CHANNELS, 8, RELATIONS), f"{names} -> x"),
        nn.ReLU(),
        (RGCNConv(8, 3, RELATIONS), f"{names} -> x"),
    ]
    model = Sequential(names, layers)
    assert data.y is not None
    train(model, lambda: model(*(data.inputs[name] for name in names.split(", "))), data.y, data.masks["train"])
    torch.save(model, tmp_path / "model.pt")
    bundle = api.export(
        tmp_path / "model.pt", data=str(path), mode=mode, output=tmp_path / "bundle", time_budget="1s"
    ).bundle
    before, after = metrics_of(bundle)
    assert (before["name"], before["n"], before["level"]) == ("accuracy", 1000, "node")
    assert before["value"] > 0.4
    assert before == after
