"""A classifier that keeps some of the nodes of each graph: trained, exported, and right on the same graphs.

On graphs whose nodes are alike, such as molecules of one-hot atoms, scores tie, and which of equal nodes stay hangs on
the last bit of a sum: there no two engines agree. Pixels of a digit differ.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.real_data import ROOT
from gnnexport import api
from gnnexport.frontends.data import load_data

SCRIPT = """
import torch
from torch_geometric.nn import GraphConv, TopKPooling, global_add_pool


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = GraphConv(3, 16), GraphConv(16, 16)
        self.pool, self.last = TopKPooling(16, ratio=0.6), torch.nn.Linear(16, 10)

    def forward(self, x, edge_index, batch, num_graphs):
        x = self.first(x, edge_index).relu()
        x, edge_index, _, batch, _, _ = self.pool(x, edge_index, None, batch)
        return self.last(global_add_pool(self.second(x, edge_index).relu(), batch, num_graphs))


def build():
    return Net()
"""


def test_a_classifier_with_top_k_pooling_keeps_its_metric(tmp_path: Path) -> None:
    """Which nodes stay is decided by features, inside the bundle; accuracy is that of PyTorch to the last digit."""
    path = tmp_path / "grids.pt"
    graphs = runpy.run_path(str(ROOT / "samples" / "grids" / "train.py"))["grids"](0)
    torch.save({split: part[:200] for split, part in graphs.items()}, path)
    data, _ = load_data(path)
    assert data.y is not None
    (tmp_path / "train.py").write_text(SCRIPT)
    torch.manual_seed(0)
    model = runpy.run_path(str(tmp_path / "train.py"))["build"]()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rows = data.masks["train"]
    arguments = [data.inputs[name] for name in ("x", "edge_index", "batch")]
    for _ in range(80):
        optimizer.zero_grad()
        logits = model(*arguments, int(data.inputs["num_graphs"]))
        functional.cross_entropy(logits[rows], data.y[rows]).backward()
        optimizer.step()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    builder = f"{tmp_path / 'train.py'}:build"
    outcome = api.export(tmp_path / "weights.pt", data=path, builder=builder, time_budget="1s")
    report = json.loads((outcome.bundle / "report.json").read_text())
    before, after = report["baseline"]["metric"], report["result"]["metric"]
    assert outcome.exit_code == 0
    assert before["value"] > 0.3
    assert before == after
