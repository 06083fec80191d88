"""Adjacency matrices are written out while a model is captured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import utils
from torch_geometric.nn import TopKPooling

from gnnexport.errors import UnsupportedError
from gnnexport.passes.raise_messages import RaiseMessages
from gnnexport.program.capture import capture
from gnnexport.program.matrices import MATRICES, check_matrices
from gnnexport.program.program import example_inputs
from tests.passes.checks import apply
from tests.small_models import WIDTH, captured, inputs_of, run, summed

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")  # torch calls its own matrices unfinished

EDGES = torch.tensor([[0, 1, 1, 2, 3, 3], [1, 0, 0, 3, 3, 2]])
WEIGHTS = torch.tensor([0.5, 2.0, -2.0, 0.0, 1.0, 3.0])
"""A duplicate that adds up to zero, a stored zero, a self-loop; node 4 has no edges."""


def test_products_store_what_sparse_ones_store() -> None:
    """A product has the edges and values that torch's sparse product has, zeros that are stored among them."""
    make, take = utils.to_torch_csr_tensor, utils.to_edge_index
    sparse = make(EDGES, WEIGHTS, (5, 5))
    matrix = MATRICES[make](EDGES, WEIGHTS, (5, 5))
    kept = torch.tensor([3, 1, 0])
    for ours, theirs in (
        (matrix, sparse),
        (matrix @ matrix, sparse @ sparse),
        (matrix.t(), sparse.to_dense().t().to_sparse_csr()),
    ):
        torch.testing.assert_close(ours.to_dense(), theirs.to_dense())
    edges, values = MATRICES[take](matrix @ matrix)
    expected, numbers = take(sparse @ sparse)
    order = (expected[0] * 5 + expected[1]).argsort()
    assert edges.tolist() == expected[:, order].tolist()
    torch.testing.assert_close(values, numbers[order])
    torch.testing.assert_close(matrix.index_select(1, kept).to_dense(), sparse.to_dense()[:, kept])
    torch.testing.assert_close(matrix @ torch.eye(5), sparse.to_dense())


class TwoHops(nn.Module):
    """Sum over neighbours of neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Multiply the adjacency by itself."""
        adjacency = utils.to_torch_csr_tensor(edge_index, size=(x.size(0), x.size(0)))
        hops = (adjacency @ adjacency).to_sparse_coo()
        return summed(self.linear(x), hops.indices())


def test_powers_of_an_adjacency_are_captured() -> None:
    """A model that multiplies adjacencies is captured, and equal on a graph of another size."""
    torch.manual_seed(0)
    module, inputs = TwoHops().eval(), inputs_of("GCN")
    program = capture(module, inputs, example_inputs(inputs))
    given = program.example(23, seed=9)
    with torch.no_grad():
        expected = module(given["x"], given["edge_index"])
    torch.testing.assert_close(run(program, given), expected, rtol=1e-5, atol=1e-5)
    assert utils.to_torch_csr_tensor(EDGES, size=(5, 5)).is_sparse_csr


def test_edges_that_stand_there_twice_are_one() -> None:
    """Without values of their own, several equal edges make one of value one, as PyG has it."""
    twice = torch.cat([EDGES, EDGES[:, :2]], 1)
    make = utils.to_torch_csr_tensor
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(MATRICES[make](twice, None, (5, 5)) @ x, make(twice, None, (5, 5)) @ x)


def test_large_matrices_are_refused() -> None:
    """A graph whose matrix would take a gigabyte or more is refused with its module, the size and a way out."""
    inputs = inputs_of("GCN")
    program = capture(TwoHops().eval(), inputs, example_inputs(inputs))
    check_matrices(program, program.example(50))
    large = {"x": torch.zeros(20_000, WIDTH), "edge_index": torch.zeros(2, 1, dtype=torch.int64)}
    with pytest.raises(UnsupportedError, match=r"20,000 × 20,000 cells, 1.6 GB each.*at most 16,384 nodes"):
        check_matrices(program, large)


class TwoHopsOfHalf(TwoHops):
    """Sum over neighbours of neighbours among the better half of the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = TopKPooling(WIDTH, ratio=0.5)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Leave the others zero."""
        pooled, edges, _, _, kept, _ = self.pool(x, edge_index)
        return torch.zeros(x.size(0), 5).index_copy(0, kept, super().forward(pooled, edges))


def test_large_matrices_of_pooled_graphs_are_refused() -> None:
    """Their size depends on values, and is told from how it grows; twice as many nodes may be given."""
    inputs = inputs_of("GCN")
    program = capture(TwoHopsOfHalf().eval(), inputs, example_inputs(inputs))
    edges = torch.zeros(2, 1, dtype=torch.int64)
    check_matrices(program, {"x": torch.zeros(32_000, WIDTH), "edge_index": edges})
    with pytest.raises(UnsupportedError, match=r"100,000 × 100,000 cells, 40.0 GB each.*at most 32,768 nodes"):
        check_matrices(program, {"x": torch.zeros(200_000, WIDTH), "edge_index": edges})


class EdgesTwice(nn.Module):
    """Multiply a matrix of edges by edges."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Let every edge follow the one of its own number, and read how many there are."""
        size = edge_index.size(1)
        matrix = utils.to_torch_csr_tensor(torch.arange(size).expand(2, -1), size=(size, size))
        followed = (matrix @ matrix).to_sparse_coo().values()
        return summed(self.linear(x), edge_index) + followed.sum()


def test_large_matrices_of_edges_are_refused() -> None:
    """They have a row for each edge of the graph at hand."""
    inputs = inputs_of("GCN")
    program = capture(EdgesTwice().eval(), inputs, example_inputs(inputs))
    check_matrices(program, program.example(50))
    large = {"x": torch.zeros(100, WIDTH), "edge_index": torch.zeros(2, 20_000, dtype=torch.int64)}
    with pytest.raises(UnsupportedError, match="20,000 × 20,000 cells"):
        check_matrices(program, large)


def test_matrices_are_told_of() -> None:
    """The report says that memory grows with the square of a graph; where no matrix is made it does not."""
    inputs = inputs_of("GCN")
    _, notes = apply(RaiseMessages(), capture(TwoHops().eval(), inputs, example_inputs(inputs)))
    assert any("square of a graph's nodes" in note for note in notes)
    _, notes = apply(RaiseMessages(), captured("GCN"))
    assert not any("square" in note for note in notes)
