"""What stands for functions of torch while a model is captured says what they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gnnexport.program.capture import capture
from gnnexport.program.program import example_inputs
from gnnexport.program.standins import standins
from tests.small_models import WIDTH, inputs_of, run

VALUES = torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize(
    ("shape", "dim"), [((3, 2), 1), ((1, 2), 1), ((3, 1), -1), ((1, 4), 0), ((2, 1), 0), ((5, 1), None)]
)
@pytest.mark.parametrize("one_row", [False, True])
def test_places_along_a_dimension(shape: tuple[int, ...], dim: int | None, one_row: bool) -> None:
    """What has one row where the other tensor has several is repeated, as torch does it."""
    values = VALUES[:1] if one_row and dim in (1, -1) else VALUES
    index = torch.arange(shape[0] * shape[1]).view(shape) % 3
    expected = torch.take_along_dim(values, index, dim)
    with standins(nn.Identity()):
        found = torch.take_along_dim(values, index, dim)
        assert torch.equal(values.take_along_dim(indices=index, dim=dim), expected)
        assert torch.equal(torch.take_along_dim(input=values, indices=index, dim=dim), expected)
    assert torch.equal(found, expected)


def test_names_of_arguments_are_those_of_torch() -> None:
    """Functions may be called by the names of their arguments."""
    numbers = torch.tensor([2, 0, 2])
    lstm = nn.LSTM(4, 2, batch_first=True)
    state = (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    options = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False}
    given = {"input": VALUES.view(2, 3, 2).repeat(1, 1, 2), "hx": state, "params": list(lstm.parameters()), **options}
    expected = torch.lstm(**given, batch_first=True)[0]
    with standins(nn.Identity()):
        assert torch.bincount(input=numbers, minlength=4).tolist() == [1, 0, 2, 0]
        assert torch.equal(torch.lstm(**given, batch_first=True)[0], expected)


class Largest(nn.Module):
    """Takes of each node the channel that is largest in the sum of its neighbours, and one of all nodes."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Answer for nodes."""
        summed = x.new_zeros(x.shape).index_add(0, edge_index[1], x[edge_index[0]])
        own = torch.take_along_dim(x, summed.argmax(1, keepdim=True), dim=1)
        return torch.cat([own, torch.take_along_dim(x, indices=x.mean(0, keepdim=True).argsort(1), dim=1)], 1)


def test_a_row_for_all_nodes_is_repeated_for_each() -> None:
    """An index of one row is captured for any number of nodes."""
    inputs = inputs_of("GCN")
    program = capture(Largest(), inputs, example_inputs(inputs))
    given = program.example(7, seed=5)
    expected = Largest()(given["x"], given["edge_index"])
    assert expected.shape == (7, 1 + WIDTH)
    assert torch.equal(run(program, given), expected)
