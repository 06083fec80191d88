"""A model that cannot be captured is refused with its module, the line, and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import LINKX, EdgePooling, PANConv

from gnnexport.errors import EXIT_UNSUPPORTED, UnsupportedError
from gnnexport.program.capture import capture
from gnnexport.program.program import example_inputs
from tests.small_models import WIDTH, inputs_of


class Around(nn.Module):
    """A layer of which the first result is read."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Call the layer, with the graph of each node where it pools."""
        if isinstance(self.layer, EdgePooling):
            return torch.as_tensor(self.layer(x, edge_index, edge_index.new_zeros(x.size(0)))[0])
        found = self.layer(x, edge_index)
        return torch.as_tensor(found[0] if isinstance(found, tuple) else found)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda: EdgePooling(WIDTH), r"layer \(EdgePooling\): .*values of tensors \(edge_pool.py, line \d+\). Look"),
        (lambda: LINKX(40, WIDTH, 4, 3, 2), r"layer \(LINKX\): the model itself fails on a small graph: RuntimeError"),
        (lambda: PANConv(WIDTH, 3, 2), r"layer \(PANConv\): the model itself fails .*'torch-sparse' .* replace what"),
    ],
    ids=["loop over edges", "made for some number of nodes", "a package that is missing"],
)  # fmt: skip
def test_refusals_name_the_module(layer: type[nn.Module], words: str) -> None:
    """The innermost module is named, the line in it, whose fault it is, and a way out."""
    inputs = inputs_of("GCN")
    with pytest.raises(UnsupportedError, match=words) as refused:
        capture(Around(layer()).eval(), inputs, example_inputs(inputs))
    assert refused.value.exit_code == EXIT_UNSUPPORTED
