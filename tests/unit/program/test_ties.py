from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gnnexport.program.capture import capture
from gnnexport.program.inputs import NUM_EDGES, NUM_NODES, Input, Role
from gnnexport.program.program import example_inputs
from gnnexport.program.ties import TiesInOrder

COUNT = 40
"""More than PyTorch sorts in order by itself."""

SORTS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.sort": lambda values: torch.sort(values, 0, True)[1],
    "Tensor.sort": lambda values: values.sort(dim=0, descending=True, stable=False)[1],
    "torch.argsort": lambda values: torch.argsort(values, dim=0, descending=True),
    "Tensor.argsort": lambda values: values.argsort(0, True),
    "by name": lambda values: torch.sort(input=values, descending=True)[1],
    "argsort by name": lambda values: torch.argsort(input=values, dim=0, descending=True),
    "stable": lambda values: values.sort(stable=True, dim=0, descending=True)[1],
}


class Ranked(nn.Module):
    """Gives features in the order of the first of them, many of which are zero."""

    def __init__(self, sort: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.sort = sort

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Answer for nodes."""
        return x[self.sort(x[:, 0].relu())] + x[edge_index[0]].sum() * 0


def ranked(x: Tensor) -> Tensor:
    """Sort rows by the first feature, the largest first, and equal ones as they come."""
    keys = x[:, 0].relu().tolist()
    return x[sorted(range(len(x)), key=lambda row: -keys[row])]


def request() -> dict[str, Tensor]:
    """Make a graph of which half of the nodes tie."""
    x = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0))
    return {"x": x, "edge_index": torch.zeros(2, 1, dtype=torch.int64)}


@pytest.mark.parametrize("name", SORTS)
def test_a_model_keeps_ties_in_order_where_it_is_asked_to(name: str) -> None:
    """However it sorts, in whatever words."""
    given = request()
    with TiesInOrder():
        answer = Ranked(SORTS[name])(**given)
    assert torch.equal(answer, ranked(given["x"]))


@pytest.mark.parametrize("name", SORTS)
def test_a_capture_keeps_ties_in_order(name: str) -> None:
    """A Program gives the same on every machine, whatever the model's own sort does."""
    inputs = (
        Input("x", Role.NODE_FEATURES, "float32", (NUM_NODES, 2)),
        Input("edge_index", Role.EDGE_INDEX, "int64", (2, NUM_EDGES)),
    )
    program = capture(Ranked(SORTS[name]), inputs, example_inputs(inputs))
    given = request()
    assert torch.equal(program(given), ranked(given["x"]))
