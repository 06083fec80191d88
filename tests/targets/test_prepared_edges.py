"""What models do to the edges of a request, recognised by what comes out and done by one operator."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, SAGEConv

from gnnexport.native import library
from gnnexport.program.program import Program
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.ort import OrtTarget
from tests.small_models import EDGE_WIDTH, INPUTS, WIDTH, run, split
from tests.targets.requests import hub_edges, prepared, random_edges, request_of

pytestmark = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")

LOOPS = torch.tensor([[0, 0, 1, 3, 3, 3, 2, 0], [0, 1, 1, 3, 3, 2, 2, 0]])
GRAPHS = {
    "sample": (random_edges(90, 400), 90),
    "loops": (LOOPS, 6),
    "no edges": (torch.zeros(2, 0, dtype=torch.int64), 7),
    "one node": (torch.zeros(2, 0, dtype=torch.int64), 1),
    "hub": (hub_edges(600), 600),
}


def request(name: str) -> dict[str, Tensor]:
    """Make a request, with weights and features of its edges."""
    edges, num_nodes = GRAPHS[name]
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(edges.shape[1], generator=generator) + 0.1
    attributes = torch.rand(edges.shape[1], EDGE_WIDTH, generator=generator)
    return {**request_of(edges, num_nodes), "edge_weight": weight, "edge_attr": attributes}


def answers(program: Program, folder: Path) -> Counter[str]:
    """Emit a model, check its answer on every graph, and count its operators."""
    OrtTarget(aggregate="native").emit(translate_graphs(program, request("sample")), folder, EmitContext())
    backend = OrtBackend(folder / "model.onnx", 2)
    for name in GRAPHS:
        given = request(name)
        (answer,) = backend.run({item.name: given[item.name].numpy() for item in program.inputs}).values()
        expected = run(program, given).numpy()
        np.testing.assert_allclose(answer, expected, atol=1e-5 * np.abs(expected).max(), err_msg=name)
    return Counter(node.op_type for node in onnx.load(folder / "model.onnx").graph.node)


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("GCN", "WeightedEdges"),
        ("GCN weighted", "WeightedEdges"),
        ("GCN without self-loops", "WeightedEdges"),
        ("GCN improved", "WeightedEdges"),
        ("GCN not normalised", "Edges"),
        ("GraphSAGE max", "Edges"),
        ("GIN", "Edges"),
        ("GAT", "Edges"),
        ("GATv2", "Edges"),
    ],
)
def test_one_operator_prepares(name: str, operator: str, tmp_path: Path) -> None:
    """Sort, loops and weights are one operator; nothing of what the exporter wrote for them is left."""
    counts = answers(split(name), tmp_path)
    assert counts[operator] == 1
    assert counts["Csr"] == counts["ScatterElements"] == counts["NonZero"] == counts["Gather"] == 0


def test_edge_features_need_the_order_of_edges(tmp_path: Path) -> None:
    """Where the edge in each slot is read, the sort stays."""
    counts = answers(split("GAT edge features"), tmp_path)
    assert counts["Csr"] == 1
    assert counts["Edges"] == 0


class Unusual(nn.Module):
    """A layer behind a preparation of edges that no kernel knows."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = GCNConv(WIDTH, 4) if how == "halved" else SAGEConv(WIDTH, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return a row for each node."""
        weight = None
        if self.how == "reversed":
            edge_index = edge_index.flip(0)
        elif self.how == "halved":
            weight = torch.where(edge_index[0] < edge_index[1], 0.5, 1.0)
        else:
            edge_index = edge_index[:, edge_index[0] != edge_index[1]]
        out: Tensor = self.conv(x, edge_index) if weight is None else self.conv(x, edge_index, weight)
        return out


@pytest.mark.parametrize("how", ["reversed", "halved", "without loops"])
def test_other_preparations_stay_as_they_are(how: str, tmp_path: Path) -> None:
    """What agrees with no known preparation is left to the operators of the model."""
    program = prepared(Unusual(how).eval(), (INPUTS["x"], INPUTS["edge_index"]))
    counts = answers(program, tmp_path)
    assert counts["Csr"] == 1
    assert counts["Edges"] == counts["WeightedEdges"] == 0


def test_targets_do_without_onnx_runtime() -> None:
    """Preparations are tried on it, and only where it is installed: other engines need not bring it."""
    code = "import sys; sys.modules['onnxruntime'] = None; import gnnexport.targets.openvino"
    subprocess.run([sys.executable, "-c", code], check=True)
