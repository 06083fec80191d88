"""Numbers of rows that are counted from an index stay open while a model is captured."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter

from gnnexport.program.capture import capture
from gnnexport.program.inputs import NUM_GRAPHS, NUM_NODES, Input, Role
from gnnexport.program.program import example_inputs
from tests.small_models import WIDTH, inputs_of, run


class Counted(nn.Module):
    """Every number of rows is left to PyG."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Sum into nodes, then into graphs."""
        sums = scatter(x[edge_index[0]], edge_index[1])
        graphs = scatter(x, batch, reduce="mean")
        return graphs + sums.sum()


def test_counted_graphs_become_an_input() -> None:
    """Graphs counted from the ids become the input, so that an empty last graph counts; counted nodes stay counted."""
    inputs = [*inputs_of("GCN"), Input("batch", Role.GRAPH_IDS, "int64", (NUM_NODES,))]
    module = Counted()
    program = capture(module, inputs, example_inputs(inputs))
    assert [item.name for item in program.inputs] == ["x", "edge_index", "batch", NUM_GRAPHS]
    for edges in (torch.tensor([[0, 4, 2], [1, 3, 1]]), torch.zeros(2, 0, dtype=torch.int64)):
        x, batch = torch.arange(5.0 * WIDTH).view(5, WIDTH), torch.tensor([0, 0, 1, 1, 2])
        given = {"x": x, "edge_index": edges, "batch": batch}
        expected = module(**given)
        torch.testing.assert_close(run(program, {**given, NUM_GRAPHS: torch.tensor(3)}), expected)
        assert run(program, {**given, NUM_GRAPHS: torch.tensor(4)}).shape == (4, WIDTH)
