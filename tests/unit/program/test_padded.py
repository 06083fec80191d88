from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch_geometric.utils
from torch import Tensor, nn
from torch_geometric.nn import aggr
from torch_geometric.utils import to_dense_batch

from gnnexport.errors import UnsupportedError
from gnnexport.program.capture import capture
from gnnexport.program.inputs import NUM_GRAPHS, Input, Role
from gnnexport.program.padded import columns_asked, one_item_each
from gnnexport.program.program import Program, arguments_of, example_inputs
from gnnexport.program.standins import standins

WIDTH = 4


class OverGraphs(nn.Module):
    """A readout after a linear layer; the edges are read, and change nothing."""

    def __init__(self, readout: nn.Module) -> None:
        super().__init__()
        self.linear, self.readout = nn.Linear(WIDTH, WIDTH), readout

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Answer for graphs."""
        x = self.linear(x) + x[edge_index[0]].sum() * 0
        return self.readout(x, batch, dim_size=num_graphs)


class Padded(nn.Module):
    """Takes the mean over a padded batch of three or more columns, and the sum over a narrower one."""

    def forward(self, x: Tensor, batch: Tensor, dim_size: int) -> Tensor:
        """Answer for graphs."""
        dense, _ = to_dense_batch(x, batch, batch_size=dim_size)
        return dense.mean(1) if dense.size(1) >= 3 else dense.sum(1)


class Centred(nn.Module):
    """Spreads nodes over a padded batch, centres each graph and takes the nodes out again."""

    def forward(self, x: Tensor, batch: Tensor, dim_size: int) -> Tensor:
        """Answer for graphs."""
        dense, mask = to_dense_batch(x, batch, batch_size=dim_size)
        rows = (dense - dense.mean(1, keepdim=True))[mask]
        return rows.new_zeros(dim_size, WIDTH).index_add(0, batch, rows * x)


def captured(readout: nn.Module) -> tuple[nn.Module, Program]:
    """Capture a readout between others."""
    torch.manual_seed(0)
    module = OverGraphs(readout).eval()
    return module, capture(module, inputs(), example_inputs(inputs()))


def inputs() -> tuple[Input, ...]:
    """Return what a classifier of graphs takes."""
    return (
        Input("x", Role.NODE_FEATURES, "float32", ("num_nodes", WIDTH)),
        Input("edge_index", Role.EDGE_INDEX, "int64", (2, "num_edges")),
        Input("batch", Role.GRAPH_IDS, "int64", ("num_nodes",)),
        Input(NUM_GRAPHS, Role.NUM_GRAPHS, "int64", ()),
    )


def request(sizes: list[int], seed: int = 3) -> dict[str, Tensor]:
    """Make a batch of graphs of these sizes, with one edge in all."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(sum(sizes), WIDTH, generator=generator),
        "edge_index": torch.zeros(2, 1, dtype=torch.int64),
        "batch": torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
        NUM_GRAPHS: torch.tensor(len(sizes)),
    }


@pytest.mark.parametrize(
    "readout",
    [
        lambda: aggr.SortAggregation(k=6),
        lambda: aggr.LSTMAggregation(WIDTH, WIDTH),
        lambda: aggr.GRUAggregation(WIDTH, WIDTH, num_layers=2, bidirectional=True),
        lambda: aggr.MedianAggregation(),
        lambda: aggr.QuantileAggregation([0.2, 0.7]),
        lambda: aggr.SetTransformerAggregation(WIDTH, heads=2),
        lambda: aggr.GraphMultisetTransformer(WIDTH, k=2),
        Centred,
    ],
    ids=["sort", "lstm", "gru", "median", "quantiles", "set transformer", "multiset transformer", "by hand"],
)
def test_sets_that_differ_in_size(readout: type[nn.Module]) -> None:
    """What lays sets out in a padded batch, or sorts them, is captured for sets of any size."""
    module, program = captured(readout())
    for sizes in ([3, 9, 1], [1], [2, 2], [7, 1, 0]):
        asked = request(sizes)
        with torch.no_grad():
            expected = module(*arguments_of(asked, [item.name for item in inputs()]))
            torch.testing.assert_close(program(asked), expected, atol=1e-5, rtol=1e-5, equal_nan=True)


def test_padding_that_matters_is_refused() -> None:
    """A model that does something else for narrow batches is refused, with its module's name and a way out."""
    with pytest.raises(UnsupportedError, match=r"readout \(Padded\).*fewer than 3 items.*max_num_nodes"):
        captured(Padded())


def test_functions_are_put_back() -> None:
    """The stand-ins are gone after a capture, also from the module that took the function by its own name."""
    original = to_dense_batch
    with standins(Padded()):
        assert to_dense_batch is not original
        assert torch_geometric.utils.to_dense_batch is not original
    assert to_dense_batch is original
    with pytest.raises(KeyError), standins(Padded()):
        raise KeyError
    assert torch_geometric.utils.to_dense_batch is original


def test_table_of_items() -> None:
    """Items lie in their row in the order given; empty cells hold the number of items."""
    table, cells = torch.ops.gnn.table(torch.tensor([2, 0, 2, 0, 0]), 4, 1)
    assert table.tolist() == [[1, 3, 4], [5, 5, 5], [0, 2, 5], [5, 5, 5]]
    assert cells.tolist() == [6, 0, 7, 1, 2]
    assert torch.ops.gnn.table(torch.zeros(0, dtype=torch.int64), 2, 3)[0].tolist() == [[0] * 3] * 2


def test_fixed_number_of_columns() -> None:
    """With a number of columns given, what does not fit is left out, as PyG does."""
    x, batch = torch.arange(8.0).view(4, 2), torch.tensor([0, 0, 0, 1])
    expected = to_dense_batch(x, batch, 7.0, max_num_nodes=2, batch_size=3)
    with standins(Padded()):
        found = to_dense_batch(x, batch, 7.0, max_num_nodes=2, batch_size=3)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_of_recurrence() -> None:
    """A recurrence over padded sequences has the gradients of torch's own."""
    torch.manual_seed(0)
    module = nn.LSTM(WIDTH, WIDTH, batch_first=True)
    x = torch.randn(2, 3, WIDTH, requires_grad=True)
    state = [torch.randn(1, 2, WIDTH, requires_grad=True) for _ in range(2)]
    found = []
    for function in (torch.lstm, torch.ops.gnn.lstm):
        out = function(x, state, list(module.parameters()), True, 1, 0.0, False, False, True)
        found.append(torch.autograd.grad(out[0].sin().sum() + out[2].sum(), [x, *state, *module.parameters()]))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_columns_that_decide() -> None:
    """The number of columns is read from the error, also where another followed while it was handled."""
    asked = ValueError("Could not guard on data-dependent expression u0 < 5 (unhinted: u0 < 5)")
    later = RuntimeError("another")
    later.__context__ = asked
    assert columns_asked(asked) == columns_asked(later) == 5
    assert columns_asked(ValueError("expression u3 > 5")) is None
    assert columns_asked(ValueError("data-dependent expression u3 > 5")) == 6


def test_sets_of_one_item() -> None:
    """Padding is tried out where every graph has one node and every node at most one edge."""
    example = one_item_each(inputs())
    assert example["batch"].unique().numel() == len(example["x"]) == int(example[NUM_GRAPHS])
    assert example["edge_index"][1].unique().numel() == example["edge_index"].shape[1]


class CountsItself(nn.Module):
    """Sort each graph's nodes, without being told how many graphs there are."""

    def __init__(self) -> None:
        super().__init__()
        self.sort = aggr.SortAggregation(k=3)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Answer for graphs."""
        return self.sort(x + x[edge_index[0]].sum(), batch)


def test_graphs_that_a_model_counts_itself() -> None:
    """The number of graphs becomes an input, and padding is checked all the same."""
    inputs = (
        Input("x", Role.NODE_FEATURES, "float32", ("num_nodes", 4)),
        Input("edge_index", Role.EDGE_INDEX, "int64", (2, "num_edges")),
        Input("batch", Role.GRAPH_IDS, "int64", ("num_nodes",)),
    )
    program = capture(CountsItself(), inputs, example_inputs(inputs))
    assert [item.name for item in program.inputs][-1] == NUM_GRAPHS


def test_sets_of_one_item_of_several_kinds() -> None:
    """Every kind of nodes has as many, and every kind of edges an edge into each of them but the last."""
    kinds = (
        Input("x__paper", Role.NODE_FEATURES, "float32", ("num_nodes__paper", WIDTH)),
        Input("x__author", Role.NODE_FEATURES, "float32", ("num_nodes__author", WIDTH)),
        Input("edge_index__author__of__paper", Role.EDGE_INDEX, "int64", (2, "num_edges__author__of__paper")),
        Input("edge_weight__author__of__paper", Role.EDGE_WEIGHT, "float32", ("num_edges__author__of__paper",)),
    )
    example = one_item_each(kinds)
    edges = example["edge_index__author__of__paper"]
    assert len(example["x__paper"]) == len(example["x__author"]) == 5
    assert edges.shape[1] == len(example["edge_weight__author__of__paper"]) == edges[1].unique().numel() == 4


class Collecting(OverGraphs):
    """Takes whatever arguments it is given, by their places."""

    def forward(self, *args: Tensor) -> Tensor:
        """Answer for graphs."""
        return super().forward(*args)


def test_a_model_that_collects_its_arguments() -> None:
    """Padding is checked where `forward` takes arguments by their places only."""
    module = Collecting(aggr.SortAggregation(k=6)).eval()
    program = capture(module, inputs(), example_inputs(inputs()))
    asked = request([3, 9, 1])
    with torch.no_grad():
        expected = module(*arguments_of(asked, [item.name for item in inputs()]))
        torch.testing.assert_close(program(asked), expected)


@pytest.mark.parametrize("make", [lambda: aggr.SortAggregation(k=2), lambda: aggr.GRUAggregation(WIDTH, WIDTH)])
def test_sets_of_one_item_each(make: Callable[[], nn.Module]) -> None:
    """What is asked of two columns is padded to them; what reads the last column, as a GRU does, is not."""
    module, program = captured(make())
    for sizes in ([1, 1, 1], [1], [1, 2], [3, 1, 2]):
        given = request(sizes)
        arguments = {name: int(value) if name == NUM_GRAPHS else value for name, value in given.items()}
        with torch.no_grad():
            torch.testing.assert_close(program(given), module(**arguments))
