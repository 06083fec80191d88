"""Models that sort, through the whole export: what is equal, and what is fewer than asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gnnexport import api

MODEL = """
import torch
from torch_geometric.nn import GraphConv, SAGEConv, SortAggregation

class Readout(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.sort = GraphConv(4, 4), SortAggregation(k=3)

    def forward(self, x, edge_index, batch, num_graphs):
        return self.sort(self.conv(x, edge_index).relu(), batch, dim_size=num_graphs)
"""


@pytest.mark.parametrize("name", ["Readout"])
def test_models_that_sort(tmp_path: Path, name: str) -> None:
    """Zeros after a ReLU tie, in what PyTorch leaves the order open; the artefact has the answer that keeps it."""
    (tmp_path / "made.py").write_text(MODEL)
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(MODEL, scope)
    torch.manual_seed(0)
    torch.save(scope[name]().state_dict(), tmp_path / "model.pt")
    outcome = api.export(
        tmp_path / "model.pt",
        builder=f"{tmp_path / 'made.py'}:{name}",
        inputs=["x=N,4"],
        target="ort{aggregate=ell}",
        output=tmp_path / "bundle",
        time_budget="1s",
    )
    assert outcome.exit_code == 0
    assert not [note for note in outcome.report.notes if "left out" in note]
