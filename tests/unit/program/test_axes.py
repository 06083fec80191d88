"""Scatters along another dimension than the first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gnnexport.passes.raise_messages import RaiseMessages
from gnnexport.program.capture import capture
from gnnexport.program.program import example_inputs
from tests.passes.checks import apply
from tests.small_models import Handwritten, inputs_of, ops, summed


@pytest.mark.parametrize("along", [True, False])
def test_an_index_as_long_both_ways(along: bool) -> None:
    """Which of two dimensions of one size an index is repeated along tells whether rows are brought to the front."""

    def forward(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
        count = x.size(0)
        place = torch.arange(count).flip(0)
        place = place.view(1, -1) if along else place.view(-1, 1)
        h = model.first(x)
        pairs = h @ summed(h, edge_index).t()
        return torch.as_tensor(torch.zeros(count, count).scatter_add(1, place.expand(count, count), pairs) @ h)

    program = capture(Handwritten(forward), inputs_of("GCN"), example_inputs(inputs_of("GCN")))
    after, _ = apply(RaiseMessages(), program)
    assert ops(after).count("gnn.csr") == 1 + along
