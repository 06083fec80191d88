"""Models over several kinds of nodes, as modules that take tensors by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GraphConv, HeteroConv, SAGEConv, to_hetero

from gnnexport.errors import DataError, UnsupportedError
from gnnexport.frontends.hetero_forward import option_notes, takes_dictionaries, wrap_hetero_forward
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


class Weighted(Convs):
    """Scale papers by what lies on their edges, where it is given."""

    def forward(
        self, x_dict: Any, edge_index_dict: Any, edge_weight_dict: Any = None, edge_attr_dict: Any = None
    ) -> Any:
        """Answer for papers."""
        found = self.conv(x_dict, edge_index_dict)["paper"]
        for values in (edge_weight_dict or {}, edge_attr_dict or {}):
            for value in values.values():
                found = found * value.sum()
        return found


class Attributed(Weighted):
    """Ask for edge features."""

    def forward(self, x_dict: Any, edge_index_dict: Any, edge_attr_dict: Any) -> Any:
        """Answer for papers."""
        return super().forward(x_dict, edge_index_dict, None, edge_attr_dict)


def valued(**values: Tensor) -> GraphData:
    """Return the data with values on the edges between papers."""
    plain = data()
    names = {"__".join((name, *CITES)): value for name, value in values.items()}
    return replace(plain, inputs={**plain.inputs, **names}, keys={**plain.keys, **dict.fromkeys(names, CITES)})


@pytest.mark.parametrize("names", [(), ("edge_weight",), ("edge_attr",), ("edge_weight", "edge_attr")])
def test_optional_values_of_edges_are_given_where_there_are_any(names: tuple[str, ...]) -> None:
    """What the data has of some kinds of edges reaches the model as a call in PyG gives it, required or not."""
    values = {"edge_weight": torch.full((6,), 2.0), "edge_attr": torch.full((6, 2), 3.0)}
    given, model = valued(**{name: values[name] for name in names}), Weighted().eval()
    wrapper, _ = wrap_hetero_forward(model, given)
    assert [item.name for item in arguments_of(wrapper)] == list(given.inputs)
    output, _ = run_once(wrapper, given, match_inputs(wrapper, given))
    x, edges = dictionaries(data())
    assert torch.equal(output, model(x, edges, **{f"{name}_dict": {CITES: values[name]} for name in names}))
    told = [f"Weighted.forward, which can do without '{name}', was given what the data has of it" for name in names]
    assert option_notes(wrapper) == told


class Handing(Convs):
    """Hand edge features on to layers that take none."""

    def forward(self, x_dict: Any, edge_index_dict: Any, edge_attr_dict: Any = None) -> Any:
        """Answer for papers."""
        if edge_attr_dict is None:
            return super().forward(x_dict, edge_index_dict)
        return self.conv(x_dict, edge_index_dict, edge_attr_dict=edge_attr_dict)["paper"]


@pytest.mark.parametrize("target", ["", "__paper"])
def test_values_of_edges_that_the_layers_cannot_take(target: str) -> None:
    """The way out is told; any other error has nothing to do with them."""
    given = replace(valued(edge_attr=torch.ones(6, 1)), target=target, y=None)
    wrapper, given = wrap_hetero_forward(Handing().eval(), given)
    with pytest.raises(DataError, match=r"TypeError.*Leave edge_attr out of the data if the model was trained without"):
        run_once(wrapper, given, match_inputs(wrapper, given))
    wide = replace(given, inputs={**given.inputs, "x__paper": torch.ones(5, 7)})
    broken, _ = wrap_hetero_forward(Weighted().eval(), wide)
    with pytest.raises(DataError, match="Use the data that the model was trained on"):
        run_once(broken, wide, match_inputs(broken, wide))


def test_values_of_edges_that_are_needed_and_lacking() -> None:
    """A model that needs them of some kind is not called without."""
    wrapper, _ = wrap_hetero_forward(Attributed().eval(), valued(edge_attr=torch.ones(6, 1)))
    assert arguments_of(wrapper)[-1].name == "edge_attr__paper__cites__paper"
    with pytest.raises(DataError, match=r"acm: has no 'edge_attr' of any kind, which Attributed.forward takes"):
        wrap_hetero_forward(Attributed().eval(), data())


class Answering(Convs):
    """Answer what it is told to."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x_dict: Any, edge_index_dict: Any) -> Any:
        """Answer."""
        return self.answer


@pytest.mark.parametrize("target", ["", "__paper"], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize(
    ("answer", "returned"),
    [
        (None, "a NoneType"),
        (torch.tensor(1.0), r"shape \[\]"),
        ((torch.ones(5, 2), torch.ones(4, 2)), "a tuple"),
        ({}, "a dict"),
    ],
    ids=["nothing", "a number", "a tuple", "no kind"],
)
def test_answers_without_a_row_for_each_node_are_refused(answer: Any, returned: str, target: str) -> None:
    """What the model returns is told, whether or not labels say which kind is meant."""
    wrapper, given = wrap_hetero_forward(Answering(answer).eval(), data(target))
    with pytest.raises(UnsupportedError, match=f"Answering: returns {returned} for . nodes. Return one tensor"):
        run_once(wrapper, given, match_inputs(wrapper, given))


def test_the_kind_that_is_answered_counts_before_its_rows() -> None:
    """Of kinds with equally many nodes the one that the answer names is meant."""
    plain = data("")
    given = replace(plain, inputs={**plain.inputs, "x__author": torch.ones(5, 2)})
    assert wrap_hetero_forward(Answering({"author": torch.ones(5, 2)}).eval(), given)[1].target == "__author"


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


class Within(nn.Module):
    """Pass messages within one kind, which stands on both sides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = GraphConv((3, 3), 2)

    def forward(self, x_src: Tensor, x_dst: Tensor, edge_index: Tensor, edge_weight: Any = None) -> Tensor:
        """Answer for destinations."""
        return self.conv((x_src, x_dst), edge_index, edge_weight)


@pytest.mark.parametrize("weighted", [False, True])
def test_both_sides_of_one_kind_and_optional_weights(weighted: bool) -> None:
    """One array stands for both sides; weights are given where there are any."""
    given, model = data(edges=(CITES,)), Within().eval()
    name, weight = "__".join(("edge_weight", *CITES)), torch.arange(6.0) if weighted else None
    if weight is not None:
        given = replace(given, inputs={**given.inputs, name: weight}, keys={**given.keys, name: CITES})
    wrapper, _ = wrap_hetero_forward(model, given)
    inputs = match_inputs(wrapper, given)
    names = ["x__paper", "edge_index__paper__cites__paper", *([name] if weighted else [])]
    assert [item.name for item in inputs] == names
    x, edges = (given.inputs[name] for name in names[:2])
    assert torch.equal(run_once(wrapper, given, inputs)[0], model(x, x, edges, weight))
    assert [("'edge_weight'" in note) for note in option_notes(wrapper)] == [True] * weighted


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
    with pytest.raises(UnsupportedError, match=r"HeteroConv.forward: takes nothing by name. Let forward take x_dict"):
        wrap_hetero_forward(Convs().conv, given)


def test_which_models_take_dictionaries() -> None:
    """Their names tell, or what they are made of; a model for one kind of nodes takes tensors."""
    assert [takes_dictionaries(model) for model in (Convs(), multiplied(), Homogeneous(), Sides())] == [
        True, True, False, False
    ]  # fmt: skip
