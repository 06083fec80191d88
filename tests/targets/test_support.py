"""What the targets refuse before they lower anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, SAGEConv

from gnnexport.passes.contract import PassContext
from gnnexport.passes.split_structure import SplitStructure
from gnnexport.program.capture import capture
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.text import to_text
from gnnexport.registry import target_classes
from gnnexport.targets.ort import OrtTarget
from tests.small_models import BUILDERS, CLASSES, INPUTS, PLAIN, WIDTH, split

INPUTS_HERE = tuple(INPUTS[key] for key in PLAIN)
NARROW = "narrow_index"


class Activation(nn.Module):
    """An activation as a module of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return self.function(x)


class Network(nn.Module):
    """Two layers with activations in between."""

    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = GCNConv(WIDTH, 8), SAGEConv(8, CLASSES)
        self.between = nn.Sequential(*map(Activation, functions))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Run all in turn."""
        out: Tensor = self.last(self.between(self.first(x, edge_index)), edge_index)
        return out


def program(*functions: Callable[[Tensor], Tensor]) -> Program:
    """Capture a network of these activations."""
    captured = capture(Network(*functions).eval(), INPUTS_HERE, example_inputs(INPUTS_HERE))
    return SplitStructure().run(captured, PassContext())


@pytest.mark.parametrize("name", sorted({*BUILDERS} - {NARROW}))
def test_what_can_be_lowered_is_not_refused(name: str) -> None:
    """No model of the families known here has an op without translation."""
    assert OrtTarget().check(split(name)) == []


@pytest.mark.parametrize("target", sorted(target_classes()))
def test_each_op_is_named_with_its_module(target: str) -> None:
    """Every op without translation is one problem, which names the module it stands in and the mend."""
    found = target_classes()[target]().check(program(torch.special.i0e, torch.relu, torch.erfinv))
    problems = [problem for problem in found if "translation" in problem.what]
    assert [problem.where for problem in problems] == ["between.0 (Activation)", "between.2 (Activation)"]
    assert [problem.what for problem in problems] == [
        "aten.special_i0e.default has no ONNX translation (prims.bessel_i0e.default inside it)",
        "aten.erfinv.default has no ONNX translation (prims.erf_inv.default inside it)",
    ]
    assert {problem.mend for problem in problems} == {"Replace that op in the model"}


def test_an_op_that_is_taken_apart_is_not_refused() -> None:
    """ONNX has no such op, but the exporter makes it of others."""
    assert OrtTarget().check(program(torch.sinc, lambda x: torch.nn.functional.group_norm(x, 2))) == []


def test_an_op_that_cannot_be_taken_apart_is_refused() -> None:
    """Nothing is inside it that could be named."""
    (problem,) = OrtTarget().check(program(lambda x: x - x.median(1, keepdim=True).values))
    assert problem.what == "aten.median.dim has no ONNX translation"


def test_a_scatter_by_a_narrow_index_is_refused() -> None:
    """ONNX Runtime would take the file and refuse the first request."""
    (problem,) = OrtTarget().check(split(NARROW))
    assert problem.where == "model (Handwritten)"
    assert "aten.scatter_add.default has an index of another shape than its values" in problem.what
    assert "Expand the index" in problem.mend


def test_checking_changes_nothing() -> None:
    """The Program is the same afterwards, and still in training where it was."""
    value = split("GAT").clone().train(True)
    before = to_text(value)
    OrtTarget().check(value)
    assert value.training
    assert to_text(value) == before
