from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch_geometric.nn import GCN

from gnnexport.errors import PassFailure, Problem, UnsupportedError
from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.pipeline.steps import CANONICAL, Stepped, run_pass, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.graphs import output_node
from gnnexport.program.inputs import Input, Role
from gnnexport.program.program import Program, example_inputs

INPUTS = (
    Input("x", Role.NODE_FEATURES, "float32", ("num_nodes", 5)),
    Input("edge_index", Role.EDGE_INDEX, "int64", (2, "num_edges")),
)


@pytest.fixture(scope="module")
def program() -> Program:
    """Return a captured GCN."""
    torch.manual_seed(0)
    return capture(GCN(5, 8, 2, 3).eval(), INPUTS, example_inputs(INPUTS))


@dataclass(frozen=True)
class Doubles(Pass):
    """Double the output, which no simplifying pass may."""

    name: ClassVar[str] = "doubles"
    stage: ClassVar[Stage] = Stage.SIMPLIFY

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Do as the class says."""
        program = program.clone()
        output = output_node(program.body.graph)
        with program.body.graph.inserting_before(output):
            output.args = (program.body.graph.call_function(torch.ops.aten.mul.Tensor, (output.args[0], 2.0)),)
        program.body.recompile()
        return program


@dataclass(frozen=True)
class Mutates(Pass):
    """Leave an op that writes in place."""

    name: ClassVar[str] = "mutates"
    stage: ClassVar[Stage] = Stage.COMPRESS

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Do as the class says."""
        program = program.clone()
        output = output_node(program.body.graph)
        with program.body.graph.inserting_before(output):
            output.args = (program.body.graph.call_function(torch.ops.aten.relu_.default, (output.args[0],)),)
        program.body.recompile()
        return program


@dataclass(frozen=True)
class Refuses(Pass):
    """Refuse everything."""

    name: ClassVar[str] = "refuses"
    stage: ClassVar[Stage] = Stage.COMPRESS

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Find one problem."""
        return [Problem("refuses", "never works", "Drop it")]

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Do as the class says."""
        raise AssertionError("a pass that refuses is not run")


def test_canonical_passes_are_recorded_in_order(program: Program) -> None:
    """Each pass leaves one step with its spec and its notes."""
    done = run_passes(program, CANONICAL, PassContext())
    assert [step.name.partition("{")[0] for step in done.steps] == [item.name for item in CANONICAL]
    assert all(step.notes for step in done.steps[:3])


def test_a_simplifying_pass_that_changes_the_output_is_caught(program: Program) -> None:
    """The pipeline compares numbers before and after."""
    with pytest.raises(PassFailure, match="changed the output") as caught:
        run_pass(Stepped(program), Doubles(), PassContext())
    assert caught.value.exit_code == 1


def test_a_pass_that_leaves_mutation_is_caught(program: Program) -> None:
    """The verifier runs after every pass."""
    with pytest.raises(PassFailure, match="relu_"):
        run_pass(Stepped(program), Mutates(), PassContext())


def test_a_refusal_is_unsupported(program: Program) -> None:
    """What a pass refuses ends in exit code 6 with its reason."""
    with pytest.raises(UnsupportedError, match="never works"):
        run_pass(Stepped(program), Refuses(), PassContext())
