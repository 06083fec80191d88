"""Recurrent cells become the linear maps and gates they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gnnexport.program.capture import capture
from gnnexport.program.graphs import module_of
from gnnexport.program.program import example_inputs
from tests.small_models import WIDTH, inputs_of, ops, run, summed

_GATES = {torch.ops.aten.tanh.default, torch.ops.aten.relu.default, torch.ops.aten.sigmoid.default}


class Stepped(nn.Module):
    """Neighbours' sums go through a cell twice."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Answer with the state, or with both states of an LSTM."""
        state: Any = x.sin()
        state = (state, x.cos()) if isinstance(self.cell, nn.LSTMCell) else state
        for _ in range(2):
            first = state[0] if isinstance(state, tuple) else state
            state = self.cell(summed(first, edge_index), state)
        return torch.cat(state, 1) if isinstance(state, tuple) else torch.as_tensor(state)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.GRUCell(WIDTH, WIDTH),
        lambda: nn.GRUCell(WIDTH, WIDTH, bias=False),
        lambda: nn.LSTMCell(WIDTH, WIDTH),
        lambda: nn.LSTMCell(WIDTH, WIDTH, bias=False),
        lambda: nn.RNNCell(WIDTH, WIDTH),
        lambda: nn.RNNCell(WIDTH, WIDTH, nonlinearity="relu"),
    ],
    ids=["gru", "gru without bias", "lstm", "lstm without bias", "tanh", "relu"],
)
def test_cells_become_gates(make: Callable[[], nn.Module]) -> None:
    """The numbers stay those of the cell, the Program can be retrained, and the nodes still name the cell's module."""
    torch.manual_seed(0)
    module = Stepped(make()).eval()
    inputs = inputs_of("GCN")
    program = capture(module, inputs, example_inputs(inputs))
    assert program.training_blocker is None
    assert not any("_cell" in name for name in ops(program))
    gates = [node for node in program.body.graph.nodes if node.target in _GATES]
    assert gates
    assert all("cell" in module_of(node) for node in gates)
    given = program.example(23, seed=9)
    with torch.no_grad():
        expected = module(given["x"], given["edge_index"])
    torch.testing.assert_close(run(program, given), expected, rtol=1e-5, atol=1e-5)
