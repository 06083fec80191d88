"""What a model takes where there is no data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GAT, GCN, GATConv, GCNConv, GraphSAGE, RGCNConv

from gnnexport.errors import DataError, UnsupportedError, UsageError
from gnnexport.frontends.declared import declared_inputs, generated_data, parse_inputs
from gnnexport.frontends.signature import match_inputs, run_once


class Own(nn.Module):
    """A model whose width only its weights tell."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.embed = nn.Linear(5, 8)
        self.conv = GCNConv(8, 8)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        """Answer for each node."""
        del batch
        return self.head(self.conv(self.embed(x), edge_index))


class Strange(nn.Module):
    """A model that wants positions."""

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """Answer nothing of use."""
        return x + pos + edge_index.sum()


def widths(model: nn.Module, **given: int | None) -> dict[str, object]:
    """Return the shapes of what a model takes."""
    return {item.name: item.shape for item in declared_inputs(model.eval(), given)}


def test_widths_come_from_attributes_weights_and_the_user() -> None:
    """`in_channels` tells, or the first weight that runs; a width given stands."""
    assert widths(GCN(7, 8, 2, 3)) == {"x": ("num_nodes", 7), "edge_index": (2, "num_edges")}
    assert widths(Own())["x"] == ("num_nodes", 5)
    assert widths(GCN(7, 8, 2, 3), edge_weight=None)["edge_weight"] == ("num_edges",)


def test_optional_arguments() -> None:
    """Graph ids are asked for where the model takes them, edge features where it has weights for them."""
    assert "batch" in widths(Own())
    assert "batch" not in widths(GCN(7, 8, 2, 3))
    assert "batch" in widths(GCN(7, 8, 2, 3, norm="GraphNorm"))
    assert widths(GAT(7, 8, 2, 3, edge_dim=4))["edge_attr"] == ("num_edges", 4)
    assert "edge_attr" not in widths(GATConv(7, 8))


def test_made_up_graphs_run() -> None:
    """The model runs on what was made up for it."""
    model = Own().eval()
    data = generated_data(model, {})
    output, level = run_once(model, data, match_inputs(model, data))
    assert (output.shape, level) == ((data.num_nodes, 2), "node")
    assert data.y is None


def test_what_cannot_be_told() -> None:
    """No width anywhere, a name the model does not take, an argument nobody knows."""
    anything = nn.ReLU()
    anything.forward = lambda x, edge_index: x  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="--input x=N,16"):
        widths(anything)
    with pytest.raises(UsageError, match="takes no such input"):
        widths(Own(), edge_attr=3)
    with pytest.raises(UnsupportedError, match="'pos', whose meaning is not known"):
        widths(Strange())


@pytest.mark.parametrize(
    "text", ["x", "x=16", "x=N", "x=N,0", "x=N,-1", "x=E,4", "edge_weight=E,1", "pos=N,3", "", "x=N,16,2"]
)
def test_sizes_that_are_none(text: str) -> None:
    """Every other form says how to write it."""
    with pytest.raises(UsageError, match="Write x=N,16"):
        parse_inputs([text])


def test_sizes_are_parsed() -> None:
    """Spaces do not matter."""
    assert parse_inputs(["x = N, 16", "edge_weight=E", "edge_attr=E,4"]) == {
        "x": 16, "edge_weight": None, "edge_attr": 4,
    }  # fmt: skip
    assert torch.is_tensor(generated_data(GCN(7, 8, 2, 3).eval(), {}).inputs["x"])


@pytest.mark.parametrize("width", ["999999999999", "9" * 30])
def test_a_width_beyond_all_memory_is_refused(width: str) -> None:
    """A width is held against the memory of this machine before anything that wide is made."""
    with pytest.raises(DataError, match=f"--input: graphs with {width} features would take"):
        generated_data(GCN(4, 4, 2, 3), parse_inputs([f"x=N,{width}"]))


class Typed(nn.Module):
    """A model with a vector for each type of edges, of which no layer tells the number."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(3, 5)

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        """Add up the vectors."""
        return x.index_add(0, edge_index[1], self.vectors(edge_type))


def test_the_number_of_types() -> None:
    """Layers tell it, or the user; where neither does, the message says how."""
    layer = RGCNConv(5, 2, num_relations=4).eval()
    assert [item.types for item in declared_inputs(layer, {})] == [None, None, 4]
    assert [item.types for item in declared_inputs(Typed(), parse_inputs(["x=N,5", "edge_type=E,3"]))] == [
        None,
        None,
        3,
    ]
    assert int(generated_data(layer, {}).inputs["edge_type"].max()) == 3
    with pytest.raises(UsageError, match=r"how many types 'edge_type' of Typed has.*--input edge_type=E,3"):
        declared_inputs(Typed(), {"x": 5})


def test_data_with_more_types_than_the_model_knows() -> None:
    """The edges of a type without weights would be lost without a word."""
    layer = RGCNConv(5, 2, num_relations=4).eval()
    data = generated_data(layer, {})
    assert match_inputs(layer, data)[2].types == 4
    data.inputs["edge_type"][0] = 4
    with pytest.raises(DataError, match="edge_type holds 4, but RGCNConv knows 4 types, numbered from 0"):
        match_inputs(layer, data)


def test_edges_are_sorted_for_a_model_that_wants_them_so() -> None:
    """An lstm over neighbours refuses edges in any order; others get them as they come."""
    torch.manual_seed(0)
    wants = generated_data(GraphSAGE(4, 8, 2, 3, aggr="lstm").eval(), {}).inputs["edge_index"][1]
    plain = generated_data(GraphSAGE(4, 8, 2, 3).eval(), {}).inputs["edge_index"][1]
    assert wants.equal(wants.sort().values)
    assert not plain.equal(plain.sort().values)
