from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnexport.errors import UnsupportedError
from gnnexport.frontends.sidecar import read_sidecar
from gnnexport.pipeline.run import simplify
from gnnexport.pipeline.source import Given, Source, capture_source, load_source
from gnnexport.program import matrices

CHANNELS, CLASSES, NODES = 6, 3, 11
MODEL = """
import torch
from torch_geometric import utils
from torch_geometric.nn import GCNConv, global_mean_pool

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GCNConv(6, 3)

    def forward(self, x, edge_index, batch=None):
        return {answer}

def build():
    return Model()
"""


def source_of(folder: Path, answer: str) -> Source:
    """Load a model that may be told its graph ids, with one graph that has none."""
    random = np.random.default_rng(0)
    x = random.normal(size=(NODES, CHANNELS)).astype(np.float32)
    np.savez(folder / "data.npz", allow_pickle=False, x=x, edge_index=random.integers(0, NODES, (2, 30)))
    (folder / "made.py").write_text(MODEL.format(answer=answer))
    torch.save({"conv.bias": torch.zeros(3), "conv.lin.weight": torch.ones(3, 6)}, folder / "model.pt")
    model, data = folder / "model.pt", folder / "data.npz"
    return load_source(Given(model, str(data), builder=f"{folder / 'made.py'}:build"), read_sidecar(model))


def test_a_classifier_of_graphs_takes_a_single_graph(tmp_path: Path) -> None:
    """Ids that the model can do without are given where it answers for the graph."""
    source = source_of(tmp_path, "global_mean_pool(self.conv(x, edge_index), batch)")
    assert (source.mode, source.level, source.logits.shape) == ("full", "graph", (1, CLASSES))
    assert simplify(source).program.level == "graph"


def test_a_classifier_of_nodes_gets_no_ids(tmp_path: Path) -> None:
    """Where nothing needs them, there are none."""
    source = source_of(tmp_path, "self.conv(x, edge_index)")
    assert (source.level, source.data.num_graphs) == ("node", None)


def test_an_answer_for_nothing_is_refused(tmp_path: Path) -> None:
    """Ids do not help a model that answers for neither nodes nor graphs."""
    with pytest.raises(UnsupportedError, match=r"returns shape \[5, 3\] for 1 graphs and 11 nodes"):
        source_of(tmp_path, "self.conv(x, edge_index)[:5]")


def test_adjacencies_too_large_to_write_out_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before what was captured runs on the data, for the matrices would fill the memory."""
    adjacency = "utils.to_torch_csr_tensor(edge_index, size=(x.size(0), x.size(0)))"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own matrices unfinished
        source = source_of(tmp_path, f"self.conv(x, ({adjacency} @ {adjacency}).to_sparse_coo().indices())")
    assert capture_source(source).level == "node"
    monkeypatch.setattr(matrices, "MOST_CELLS", 100)
    with pytest.raises(UnsupportedError, match="11 × 11 cells"):
        capture_source(source)
