"""Models over several types of edges, on real data: the export keeps the metric."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn
from torch_geometric.nn import RGCNConv, Sequential

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
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    assert data.y is not None
    for _ in range(15):
        optimizer.zero_grad()
        output = model(*(data.inputs[name] for name in names.split(", ")))
        nn.functional.cross_entropy(output[data.masks["train"]], data.y[data.masks["train"]]).backward()
        optimizer.step()
    torch.save(model.eval(), tmp_path / "model.pt")
    bundle = api.export(
        tmp_path / "model.pt", data=str(path), mode=mode, output=tmp_path / "bundle", time_budget="1s"
    ).bundle
    report = json.loads((bundle / "report.json").read_text())
    before, after = report["baseline"]["metric"], report["result"]["metric"]
    assert (before["name"], before["n"], before["level"]) == ("accuracy", 1000, "node")
    assert before["value"] > 0.4
    assert before == after
