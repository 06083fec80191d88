from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gnnexport.passes.remove_redundant import RemoveRedundant
from gnnexport.program.capture import capture
from gnnexport.program.program import Program, example_inputs
from tests.passes.checks import apply
from tests.small_models import Handwritten, captured, inputs_of, ops, summed


def twice(op: Callable[[Handwritten, Tensor], Tensor]) -> Program:
    """Capture a model that does the same to the same value twice."""

    def forward(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
        h = summed(model.first(x), edge_index)
        return torch.as_tensor(model.last(op(model, h) + op(model, h)))

    return capture(Handwritten(forward), inputs_of("GCN"), example_inputs(inputs_of("GCN")))


def test_equal_calls_share_a_node() -> None:
    """Two equal products of the same arguments become one."""
    program = twice(lambda model, h: torch.as_tensor(model.middle(h)))
    assert ops(program).count("aten.linear") == 4
    apply(RemoveRedundant(), program, has={"aten.linear": 3})


def test_dropouts_stay_apart() -> None:
    """Two dropouts of one value draw different masks in training."""
    apply(RemoveRedundant(), twice(lambda model, h: torch.as_tensor(model.dropout(h))), has={"aten.dropout": 2})


def test_lean_program_stays() -> None:
    """A second run finds nothing to remove."""
    once, _ = apply(RemoveRedundant(), captured("GCN"))
    _, notes = apply(RemoveRedundant(), once)
    assert notes == ["removed 0 nodes"]
    assert once.inputs == inputs_of("GCN")


def test_views_of_what_is_computed_of_a_copy() -> None:
    """A copy that brought values into another order in memory may go, whatever stands between it and a view."""

    def forward(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
        h = summed(model.first(x), edge_index).view(-1, 2, 4).transpose(1, 2).contiguous().relu()
        return torch.as_tensor(model.last((h * 2).view(-1, 8)))

    program = capture(Handwritten(forward), inputs_of("GCN"), example_inputs(inputs_of("GCN")))
    apply(RemoveRedundant(), program, has={"aten.contiguous": 0, "aten.clone": 0, "aten.view": 0})
