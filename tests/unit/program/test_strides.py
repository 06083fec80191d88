"""Models that cut edges into every so manieth are captured for multiples of the step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import MeshCNNConv

from gnnexport.errors import UnsupportedError
from gnnexport.program.capture import capture
from gnnexport.program.program import example_inputs
from tests.small_models import WIDTH, inputs_of, run


class Halves(nn.Module):
    """Edges stand in pairs; the two of a pair exchange what they carry."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Sum what arrives."""
        carried = x[edge_index[0]]
        swapped = torch.empty(carried.shape)
        swapped[0::2] = carried[1::2] - carried[0::2]
        swapped[1::2] = carried[0::2].sin()
        return x.new_zeros(x.shape).index_add(0, edge_index[1], swapped)


@pytest.mark.parametrize("num_nodes", [1, 12, 23])
@pytest.mark.parametrize(("make", "step"), [(lambda: MeshCNNConv(WIDTH, 5), 4), (Halves, 2)], ids=["mesh", "pairs"])
def test_parts_of_edges_are_captured(make: type[nn.Module], step: int, num_nodes: int) -> None:
    """The numbers are those of the model on graphs of other sizes, and the Program can be retrained."""
    torch.manual_seed(0)
    module, inputs = make().eval(), inputs_of("GCN")
    program = capture(module, inputs, example_inputs(inputs))
    generator = torch.Generator().manual_seed(num_nodes)
    given = {
        "x": torch.randn(num_nodes, WIDTH, generator=generator),
        "edge_index": torch.randint(0, num_nodes, (2, step * num_nodes), generator=generator),
    }
    with torch.no_grad():
        torch.testing.assert_close(run(program, given), module(**given), rtol=1e-5, atol=1e-5)
    assert program.training_blocker is None


class HalvesOfTables(nn.Module):
    """Exchanges edges in pairs, and reads every other row of a table of five."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = Halves()
        self.table = nn.Parameter(torch.randn(5, WIDTH))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Add what arrives, and the rows of the table read and written by twos."""
        spread = torch.empty(5, WIDTH)
        spread[0::2] = self.table[0::2]
        spread[1::2] = self.table[1::2].sin()
        return self.halves(x, edge_index) + spread.sum(0)


class Stacked(nn.Module):
    """Two layers, the second of which cuts what the first hands on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = MeshCNNConv(WIDTH, WIDTH), MeshCNNConv(WIDTH, 5)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Pass messages twice."""
        return self.second(self.first(x, edge_index), edge_index)


def test_several_layers_are_captured() -> None:
    """All of them cut the same edges into the same parts."""
    torch.manual_seed(0)
    module, inputs = Stacked().eval(), inputs_of("GCN")
    program = capture(module, inputs, example_inputs(inputs))
    given = {"x": torch.randn(9, WIDTH), "edge_index": torch.randint(0, 9, (2, 36))}
    with torch.no_grad():
        torch.testing.assert_close(run(program, given), module(**given), rtol=1e-5, atol=1e-5)


class Sampled(nn.Module):
    """Exchanges edges in pairs, and takes every so manieth of something that nothing is paired with."""

    def __init__(self, take: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.halves, self.take = Halves(), take

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Add what is taken."""
        return self.halves(x, edge_index) + self.take(x, edge_index).sum(0)


@pytest.mark.parametrize(
    ("take", "slice_"),
    [(lambda x, edge_index: x[0::2], r"\[0::2\]"), (lambda x, edge_index: x[edge_index[0]][1::3], r"\[1::3\]")],
    ids=["nodes", "edges"],
)
def test_parts_that_are_not_paired_are_refused(take: Callable[[Tensor, Tensor], Tensor], slice_: str) -> None:
    """What is left over of them counts, so they must not be cut to a multiple: the message names the slice."""
    inputs = inputs_of("GCN")
    with pytest.raises(UnsupportedError, match=f"{slice_} and another part are cut of different rows"):
        capture(Sampled(take).eval(), inputs, example_inputs(inputs))


def test_parts_of_a_known_number_of_rows_are_whole() -> None:
    """Of five rows every other one are three, though parts of edges are counted by the step."""
    torch.manual_seed(0)
    module, inputs = HalvesOfTables().eval(), inputs_of("GCN")
    program = capture(module, inputs, example_inputs(inputs))
    given = program.example(9, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(run(program, given), module(**given), rtol=1e-5, atol=1e-5)
