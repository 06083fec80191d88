"""Models over several kinds of nodes, as modules that take tensors by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import HeteroConv, SAGEConv, to_hetero

from gnnexport.errors import DataError, UnsupportedError
from gnnexport.frontends.hetero_forward import takes_dictionaries, wrap_hetero_forward
from gnnexport.frontends.signature import arguments_of, match_inputs, run_once
from gnnexport.program.data import GraphData, Kind

WRITES = ("author", "writes", "paper")
CITES = ("paper", "cites", "paper")
BY = ("paper", "by", "author")
ALL = (WRITES, CITES, BY)
WIDTHS = {"paper": 3, "author": 2}


def data(target: str = "__paper", edges: tuple[tuple[str, str, str], ...] = ALL) -> GraphData:
    """Make five papers and four authors."""
    generator = torch.Generator().manual_seed(0)
    counts = {"paper": 5, "author": 4}
    inputs = {f"x__{kind}": torch.randn(counts[kind], WIDTHS[kind], generator=generator) for kind in counts}
    keys: dict[str, Kind] = {f"x__{kind}": kind for kind in counts}
    for key in edges:
        name = "__".join(("edge_index", *key))
        ends = [torch.randint(0, counts[key[side]], (6,), generator=generator) for side in (0, 2)]
        inputs[name], keys[name] = torch.stack(ends), key
    y = torch.tensor([0, 1, 0, 1, 1]) if target else None
    return GraphData("acm", inputs, y=y, target=target, keys=keys)


class Convs(nn.Module):
    """One layer over all kinds."""

    def __init__(self, *, single: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = {key: SAGEConv((WIDTHS[key[0]], WIDTHS[key[2]]), 2) for key in ALL}
        self.conv, self.single = HeteroConv(layers), single

    def forward(self, x_dict: dict[str, Tensor], edge_index_dict: dict[Any, Tensor]) -> Any:
        """Answer for papers."""
        found = self.conv(x_dict, edge_index_dict)
        return found["paper"] if self.single else found


class Sides(nn.Module):
    """A layer from one kind to another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = SAGEConv((2, 3), 2)

    def forward(self, x_dst: Tensor, x_src: Tensor, edge_index: Tensor) -> Tensor:
        """Answer for destinations."""
        return self.conv((x_src, x_dst), edge_index)


class Homogeneous(nn.Module):
    """What `to_hetero` multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = SAGEConv((-1, -1), 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Answer for nodes."""
        return self.conv(x, edge_index)


def dictionaries(given: GraphData) -> tuple[dict[Any, Tensor], dict[Any, Tensor]]:
    """Return what the model is called with in PyG."""
    x = {given.keys[name]: value for name, value in given.inputs.items() if name.startswith("x")}
    return x, {given.keys[name]: value for name, value in given.inputs.items() if name.startswith("edge")}


def multiplied() -> nn.Module:
    """Return a model of `to_hetero` with weights."""
    torch.manual_seed(0)
    model: nn.Module = to_hetero(Homogeneous(), (list(WIDTHS), list(ALL)))
    edges = {key: torch.zeros(2, 1, dtype=torch.int64) for key in ALL}
    with torch.no_grad():
        model({kind: torch.zeros(1, width) for kind, width in WIDTHS.items()}, edges)
    return model.eval()


def test_dictionaries_become_tensors_by_name() -> None:
    """The wrapper asks for every array of the data, in its order, and answers as the model does."""
    model, given = Convs().eval(), data()
    wrapper, same = wrap_hetero_forward(model, given)
    assert same is given
    assert [item.name for item in arguments_of(wrapper)] == list(given.inputs)
    inputs = match_inputs(wrapper, given)
    assert inputs[2].shape == (2, "num_edges__author__writes__paper")
    output, level = run_once(wrapper, given, inputs)
    assert level == "node"
    assert torch.equal(output, model(*dictionaries(given)))


@pytest.mark.parametrize("make", [multiplied, lambda: Convs(single=False)], ids=["to_hetero", "dictionary"])
def test_the_labelled_kind_is_answered(make: Any) -> None:
    """Of a dictionary of answers the labels choose; a model of `to_hetero` calls its dictionaries x and edge_index."""
    model, given = make().eval(), data()
    wrapper, _ = wrap_hetero_forward(model, given)
    assert torch.equal(wrapper(**given.inputs), model(*dictionaries(given))["paper"])


def test_without_labels_the_answer_tells() -> None:
    """One tensor is for the kind with as many nodes; several answers are refused, as nothing says which is meant."""
    assert wrap_hetero_forward(Convs().eval(), data(""))[1].target == "__paper"
    with pytest.raises(UnsupportedError, match=r"answers for several kinds of nodes \(paper, author\).*for one kind"):
        wrap_hetero_forward(Convs(single=False).eval(), data(""))


def test_the_two_sides_of_one_kind_of_edges() -> None:
    """Source and destination are found by the edges, in whatever order the model takes them."""
    model, given = Sides().eval(), data(edges=(WRITES,))
    wrapper, _ = wrap_hetero_forward(model, given)
    assert [item.name for item in arguments_of(wrapper)] == [
        "x__paper", "x__author", "edge_index__author__writes__paper"
    ]  # fmt: skip
    paper, author, edges = given.inputs["x__paper"], given.inputs["x__author"], list(given.inputs.values())[2]
    assert torch.equal(wrapper(**given.inputs), model(paper, author, edges))
    with pytest.raises(UnsupportedError, match="two sides of one kind of edges, where acm has 3 kinds"):
        wrap_hetero_forward(model, data())


def test_what_the_data_lacks_and_what_is_not_known() -> None:
    """A side that is not in the data, and arguments of no known name, are told."""
    given = data(edges=(WRITES,))

    class Weighted(Sides):
        def forward(self, x_dst: Tensor, x_src: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
            return self.conv((x_src, x_dst), edge_index) + edge_weight.sum()

    with pytest.raises(DataError, match=r"has no 'edge_weight', which Weighted.forward takes"):
        wrap_hetero_forward(Weighted().eval(), given)

    class Strange(nn.Module):
        def forward(self, x_dict: Any, times: Any) -> Any:
            return x_dict["paper"] + times

    with pytest.raises(UnsupportedError, match=r"Strange.forward: takes x_dict, times. Let forward take x_dict and"):
        wrap_hetero_forward(Strange(), given)


def test_which_models_take_dictionaries() -> None:
    """Their names tell, or what they are made of; a model for one kind of nodes takes tensors."""
    assert [takes_dictionaries(model) for model in (Convs(), multiplied(), Homogeneous(), Sides())] == [
        True, True, False, False
    ]  # fmt: skip
