from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCN, GIN, EdgeCNN, GCNConv, GraphSAGE

from gnnexport.frontends import baseline
from gnnexport.frontends.baseline import best_pytorch
from gnnexport.frontends.signature import match_inputs
from gnnexport.program.data import GraphData


def graph(loops: bool = False, duplicates: bool = False, weights: bool = False) -> GraphData:
    """Make a random graph of 40 nodes."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(0, 40, (2, 200), generator=generator).unique(dim=1)
    if not loops:
        edges = edges[:, edges[0] != edges[1]]
    if duplicates:
        edges = torch.cat([edges, edges[:, :7]], dim=1)
    inputs = {"x": torch.randn(40, 8, generator=generator), "edge_index": edges}
    if weights:
        inputs["edge_weight"] = torch.rand(edges.shape[1], generator=generator)
    return GraphData("graph", inputs)


@pytest.fixture(autouse=True)
def csr_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decide for CSR wherever it is a contender: on graphs this small the clock is noise."""
    monkeypatch.setattr(baseline, "DECISIVE", float("inf"))
    monkeypatch.setattr(baseline, "_median_seconds", lambda contender: contender.name != "pytorch-csr")


@pytest.mark.parametrize("model_class", [GCN, GraphSAGE, GIN])
@pytest.mark.parametrize("kind", ["plain", "loops", "duplicates", "weights"])
def test_csr_is_used_where_it_agrees(model_class: type[nn.Module], kind: str) -> None:
    """The run over the adjacency gives the model's own outputs, and the model is left as it was."""
    torch.manual_seed(0)
    model = model_class(8, 8, 2, 3).eval()
    before = copy.deepcopy(model.state_dict())
    data = graph(**{} if kind == "plain" else {kind: True})
    inputs = match_inputs(model, data)
    found = best_pytorch(model, data, inputs)
    with torch.inference_mode():
        expected = model(**{entry.name: data.inputs[entry.name] for entry in inputs})
    assert found.name == "pytorch-csr"
    torch.testing.assert_close(found.run(), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(getattr(layer, "cached", False) for layer in model.modules())
    assert all(layer._cached_edge_index is None for layer in model.modules() if isinstance(layer, GCNConv))


class TakesNoAdjacency(nn.Module):
    """A model that indexes its edges."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Sum the features of the sources at the destinations."""
        return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])


@pytest.mark.parametrize("model", [TakesNoAdjacency(), EdgeCNN(8, 8, 2, 3).eval()], ids=["indexing", "edgecnn"])
def test_a_model_runs_the_best_way_it_can(model: nn.Module) -> None:
    """A model without use for an adjacency still has a baseline with its own outputs."""
    data = graph()
    found = best_pytorch(model, data, match_inputs(model, data))
    with torch.inference_mode():
        expected = model(data.inputs["x"], data.inputs["edge_index"])
    torch.testing.assert_close(found.run(), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(model, EdgeCNN) or found.name == "pytorch-eager"


def test_a_wrong_adjacency_path_is_not_used() -> None:
    """A model that takes an adjacency and answers something else keeps its edge index."""

    class Confused(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return x * (2.0 if edge_index.layout is torch.sparse_csr else 1.0)

    data = graph()
    assert best_pytorch(Confused(), data, match_inputs(Confused(), data)).name == "pytorch-eager"


def test_the_model_is_put_neither_into_training_nor_out_of_it() -> None:
    """Dropout is off in the baseline whatever the mode of the model handed in."""
    model = GraphSAGE(8, 8, 2, 3, dropout=0.9).train()
    data = graph()
    found = best_pytorch(model, data, match_inputs(model, data))
    assert torch.equal(found.run(), found.run())
    assert model.training
