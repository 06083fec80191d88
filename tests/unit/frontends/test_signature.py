from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GAT, GCN, GCNConv, GraphSAGE, NNConv, SAGEConv, Sequential

from gnnexport.errors import DataError, UnsupportedError
from gnnexport.frontends.signature import match_inputs, run_once
from gnnexport.program.data import GraphData


def graph(**more: Tensor) -> GraphData:
    """Make a graph of 4 nodes with 8 features and 3 edges."""
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
    return GraphData("graph", {"x": torch.ones(4, 8), "edge_index": edges, **more})


WEIGHT, ATTR = torch.ones(3), torch.ones(3, 5)


def sequential(arguments: str = "x, edge_index") -> Sequential:
    """Make a PyG `Sequential` of one layer."""
    return Sequential(arguments, [(GCNConv(8, 3), f"{arguments} -> x")])


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: GCN(8, 4, 2, 3), ["x", "edge_index", "edge_weight"]),
        (lambda: GraphSAGE(8, 4, 2, 3), ["x", "edge_index"]),
        (lambda: GAT(8, 4, 2, 3), ["x", "edge_index"]),
        (lambda: GAT(8, 4, 2, 3, edge_dim=5), ["x", "edge_index", "edge_attr"]),
        (lambda: GCNConv(8, 3), ["x", "edge_index", "edge_weight"]),
        (lambda: sequential(), ["x", "edge_index"]),
        (lambda: sequential("x, edge_index, edge_weight"), ["x", "edge_index", "edge_weight"]),
    ],
)
def test_inputs_are_those_that_the_model_reads(make: Callable[[], nn.Module], names: list[str]) -> None:
    """Optional arguments are given where the data has them and the model uses them, in order."""
    inputs = match_inputs(make(), graph(edge_weight=WEIGHT, edge_attr=ATTR))
    assert [entry.name for entry in inputs] == names


def test_sizes_that_vary_have_names() -> None:
    """Node and edge counts are dynamic, widths are numbers."""
    inputs = match_inputs(GAT(8, 4, 2, 3, edge_dim=5), graph(edge_attr=ATTR))
    assert [str(entry) for entry in inputs] == [
        "x: float32 [num_nodes, 8]",
        "edge_index: int64 [2, num_edges]",
        "edge_attr: float32 [num_edges, 5]",
    ]


class Other(nn.Module):
    """A model whose arguments have names of its own."""

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Return the features."""
        return x


def test_what_cannot_be_matched_is_named() -> None:
    """Unknown arguments, and arguments the data lacks, each name their mend."""
    with pytest.raises(UnsupportedError, match=r"Other.forward: takes 'adjacency'.*forward takes x, edge_index"):
        match_inputs(Other(), graph())
    with pytest.raises(UnsupportedError, match=r"Linear.forward: takes 'input'"):
        match_inputs(nn.Linear(8, 3), graph())
    with pytest.raises(DataError, match=r"graph: has no 'edge_weight', which Sequential.forward takes"):
        match_inputs(sequential("x, edge_index, edge_weight"), graph())


@pytest.mark.parametrize("model", [GCN(16, 4, 2, 3), SAGEConv((16, 16), 3)], ids=["model", "layer"])
def test_another_width_names_both(model: nn.Module) -> None:
    """Features of another width than the model's are an error with both numbers."""
    with pytest.raises(DataError, match=r"x has 8 features per node, \w+ was trained on 16"):
        match_inputs(model, graph())


def test_a_run_checks_model_and_data_together() -> None:
    """One run tells widths that no attribute gives away, missing classes, and outputs of another kind."""
    wrong = nn.Sequential(nn.Linear(16, 3))
    late = Sequential("x, edge_index", [(nn.Identity(), "x -> x"), (wrong, "x -> x")])
    with pytest.raises(DataError, match=r"Sequential cannot run on it \(RuntimeError.*it was given x \[4, 8\]"):
        run_once(late, graph(), match_inputs(late, graph()))
    model = GCN(8, 4, 2, 3)
    labelled = GraphData("graph", graph().inputs, y=torch.tensor([0, 1, 2, 3]))
    with pytest.raises(DataError, match="has the label 3, but GCN answers 3 classes"):
        run_once(model, labelled, match_inputs(model, labelled))
    output, level = run_once(model, graph(), match_inputs(model, graph()))
    assert (output.shape, level) == ((4, 3), "node")
    pooled = Sequential("x, edge_index", [(nn.Flatten(0), "x -> x")])
    with pytest.raises(UnsupportedError, match=r"returns shape \[32\] for 4 nodes"):
        run_once(pooled, graph(), match_inputs(pooled, graph()))


def test_a_layer_that_needs_edge_features_says_so() -> None:
    """NNConv reads edge features always: without them the run says what it was given."""
    layer = NNConv(8, 3, nn.Linear(5, 24))
    inputs = match_inputs(layer, graph(edge_attr=ATTR))
    assert [entry.name for entry in inputs] == ["x", "edge_index", "edge_attr"]
    with pytest.raises(DataError, match="NNConv cannot run on it"):
        run_once(layer, graph(), match_inputs(layer, graph()))


class Ends(nn.Module):
    """Wrap a layer and make something else of its answer."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.end = GCNConv(8, 3), end

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return what `end` makes of the scores."""
        return self.end(self.conv(x, edge_index))


def answer(end: Callable[[Tensor], Tensor]) -> Tensor:
    """Run a model that ends so."""
    model = Ends(end)
    return run_once(model, graph(), match_inputs(model, graph()))[0]


@pytest.mark.parametrize(
    ("end", "dtype"),
    [
        (lambda scores: scores > 0, "bool"),
        (lambda scores: scores.argmax(1), "int64"),
        (lambda scores: torch.complex(scores, scores), "complex64"),
    ],
)
def test_only_real_numbers_are_scores(end: Callable[[Tensor], Tensor], dtype: str) -> None:
    """Classes, flags and complex numbers cannot be compared with what an engine answers."""
    with pytest.raises(UnsupportedError, match=f"Ends: returns {dtype}, not floating-point numbers"):
        answer(end)


def test_a_model_that_answers_only_nan_is_told() -> None:
    """No number could differ from them: such a model would pass every check. Some NaN may be meant."""
    with pytest.raises(DataError, match="graph: Ends answers nothing but NaN on it"):
        answer(lambda scores: scores * float("nan"))
    some = answer(lambda scores: scores.masked_fill(torch.tensor([[True], [False], [False], [False]]), float("nan")))
    assert int(some.isnan().sum()) == 3


def test_a_model_cannot_end_the_program() -> None:
    """`sys.exit` in a forward is an error of the model, not an exit code of ours."""

    def leave(scores: Tensor) -> Tensor:
        raise SystemExit(0)

    with pytest.raises(DataError, match="Ends cannot run on it"):
        answer(leave)


def test_labels_of_something_else_are_refused() -> None:
    """A model that answers for nodes cannot be judged by labels of graphs, whatever their number."""
    data = graph(batch=torch.tensor([0, 0, 1, 1]), num_graphs=torch.tensor(2))
    labelled = replace(data, y=torch.tensor([0, 1]), level="graph")
    model = sequential()
    inputs = match_inputs(model, labelled)
    with pytest.raises(DataError, match="answers for each node, but the labels are for each graph"):
        run_once(model, labelled, inputs)


def test_an_endless_error_of_a_model_is_cut() -> None:
    """A model whose error prints all it holds fills no terminal."""

    class Loud(torch.nn.Module):
        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            raise ValueError("9" * 10_000)

    inputs = {"x": torch.ones(2, 1), "edge_index": torch.zeros(2, 0, dtype=torch.int64)}
    data = GraphData(name="small", inputs=inputs)
    with pytest.raises(DataError, match=r"9{300}…") as caught:
        run_once(Loud(), data, match_inputs(Loud(), data))
    assert len(str(caught.value)) < 600
