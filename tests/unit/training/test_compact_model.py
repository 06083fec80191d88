from __future__ import annotations

import numpy as np
import pytest
import torch

from gnnexport.program.channels import find_groups, shrink
from gnnexport.program.graphs import args_of, parameter_of
from tests.small_models import run, split


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE", "GIN", "GCN batch norm"])
def test_compact_equals_full_with_channels_zeroed(name: str) -> None:
    """Cutting channels equals zeroing what reads them, as long as no norm mixes channels."""
    full, compact = split(name).clone(), split(name).clone()
    groups = zip(find_groups(full), find_groups(compact), strict=True)
    for group, twin in groups:
        if group.blockers or group.width < 4:
            continue
        kept = torch.arange(0, group.width, 2)
        gone = torch.arange(1, group.width, 2)
        for node in group.consumers:
            weight = parameter_of(full.body, args_of(node)[1])
            assert weight is not None
            weight.data[:, gone] = 0
        shrink(compact.body, twin, kept)
    inputs = full.example(17, seed=2)
    torch.testing.assert_close(run(compact, inputs), run(full, inputs), rtol=1e-4, atol=1e-5)
    assert sum(map(torch.Tensor.numel, compact.parameters())) < sum(map(torch.Tensor.numel, full.parameters()))


def test_keeping_all_channels_changes_no_bit() -> None:
    """A group shrunk to its own width computes what it did."""
    program = split("GraphSAGE").clone()
    for group in find_groups(program):
        if not group.blockers:
            shrink(program.body, group, torch.arange(group.width))
    inputs = program.example(17, seed=2)
    assert np.array_equal(run(program, inputs).numpy(), run(split("GraphSAGE"), inputs).numpy())
