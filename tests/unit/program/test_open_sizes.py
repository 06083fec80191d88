"""What torch.export makes of open sizes that are counted, filtered and compared."""

from __future__ import annotations

import torch
from torch import nn
from torch_geometric.nn import ClusterGCNConv

from gnnexport.program.capture import capture
from gnnexport.program.program import example_inputs
from tests.small_models import WIDTH, inputs_of, run


def captured_equals(module: nn.Module, num_nodes: int = 23) -> None:
    """Capture a model of features and edges, and compare on a graph of another size."""
    inputs = inputs_of("GCN")
    program = capture(module.eval(), inputs, example_inputs(inputs))
    given = program.example(num_nodes, seed=9)
    with torch.no_grad():
        expected = module(given["x"], given["edge_index"])
    torch.testing.assert_close(run(program, given), expected, rtol=1e-5, atol=1e-5)


def test_a_filtered_size_may_be_that_of_the_nodes() -> None:
    """Edges that are filtered to one for each node give a number of nodes that is still open."""
    torch.manual_seed(0)
    captured_equals(ClusterGCNConv(WIDTH, 5))
