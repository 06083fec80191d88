from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, fx, nn

from gnnexport.errors import KernelError, Problem
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.graphs import parameter_of, replace_tensor
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.verify import largest_error, verify
from tests.small_models import WIDTH, inputs_of, split, summed

aten = torch.ops.aten


def broken(name: str = "GCN improved") -> tuple[Program, fx.Graph]:
    """Return a Program to break, and its graph."""
    program = split(name).clone()
    return program, program.body.graph


def linear(graph: fx.Graph) -> fx.Node:
    """Return the first product with a weight."""
    return next(node for node in graph.nodes if node.target is aten.linear.default)


def words(problems: list[Problem]) -> str:
    """Join problems."""
    return "\n".join(map(str, problems))


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE", "GIN", "GAT", "PNA", "GCN batch norm"])
def test_sound_programs_pass(name: str) -> None:
    """What the passes make has no problem."""
    assert verify(split(name)) == []


def test_mutation_is_found() -> None:
    """An op that writes to its argument is named with its module."""
    program, graph = broken()
    relu = next(node for node in graph.nodes if node.target is aten.relu.default)
    relu.target = aten.relu_.default
    program.body.recompile()
    assert "aten.relu_.default mutates its argument. Use its functional form." in words(verify(program))


def test_dead_input_is_found() -> None:
    """An input that nothing reads would be a lie in the manifest."""
    program, graph = broken()
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        graph.placeholder("spare")
    program.body.recompile()
    assert "body: nothing reads the input 'spare'" in words(verify(program))


def test_ill_formed_graph_is_found() -> None:
    """A node read before it is made is found."""
    program, graph = broken()
    linear(graph).append(next(node for node in graph.nodes if node.op == "placeholder"))
    assert "the graph is ill-formed" in words(verify(program))


def test_parameter_of_another_shape_is_found() -> None:
    """A weight that lost rows disagrees with what reads it."""
    program, graph = broken()
    node = linear(graph).args[1]
    assert isinstance(node, fx.Node)
    weight = parameter_of(program.body, node)
    assert weight is not None
    replace_tensor(program.body, node, weight[:-1])
    assert "body: does not run" in words(verify(program))


def test_number_of_nodes_written_out_is_found() -> None:
    """A shape that fits one example graph but no other is found."""
    program, graph = broken()
    result = next(iter(reversed(graph.nodes)))
    (value,) = result.args
    with graph.inserting_before(result):
        assert isinstance(value, fx.Node)
        view = graph.call_function(aten.view.default, (value, [11, 3]))
    result.args = (view,)
    program.body.recompile()
    assert "does not run" in words(verify(program))


def test_what_a_kernel_refuses_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's words, mend and all, are part of the sentence."""

    def refuse(program: Program, inputs: dict[str, Tensor]) -> Tensor:
        raise KernelError.at("native kernels", "no such node", "Pass another")

    program, _ = broken()
    monkeypatch.setattr(Program, "__call__", refuse)
    assert "body: does not run: native kernels: no such node. Pass another. A shape" in words(verify(program))


def test_wrong_number_of_rows_is_found() -> None:
    """One row is returned for each node."""
    program, graph = broken()
    result = next(iter(reversed(graph.nodes)))
    (value,) = result.args
    with graph.inserting_before(result):
        assert isinstance(value, fx.Node)
        first = graph.call_function(aten.slice.Tensor, (value, 0, 0, 5))
    result.args = (first,)
    program.body.recompile()
    assert "gives [5, 3] for 11 nodes" in words(verify(program))


def test_error_of_equal_programs_is_zero() -> None:
    """A Program does not differ from its copy."""
    assert largest_error(split("GCN"), split("GCN").clone()) == 0


def test_nan_is_an_infinite_error() -> None:
    """A result that is no number differs from one that is."""
    program, graph = broken()
    node = linear(graph).args[1]
    assert isinstance(node, fx.Node)
    weight = parameter_of(program.body, node)
    assert weight is not None
    replace_tensor(program.body, node, torch.full_like(weight, math.nan))
    assert largest_error(split("GCN improved"), program) == math.inf


class TwoLargest(nn.Module):
    """Takes the two largest of all nodes, which one node has not."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Add them to every node."""
        return summed(self.linear(x), edge_index) + torch.topk(x[:, 0], 2)[0].sum()


def test_a_graph_that_a_model_cannot_run_on_is_left_out() -> None:
    """What runs on two nodes or more is compared there; what no longer runs there differs."""
    inputs = inputs_of("GCN")
    program = capture(TwoLargest().eval(), inputs, example_inputs(inputs))
    assert run_passes(program, CANONICAL, PassContext()).steps
    assert largest_error(program, program.clone()) == 0
    after = program.clone()
    taken = next(node for node in after.body.graph.nodes if node.target is aten.topk.default)
    taken.args = (taken.args[0], 12, *taken.args[2:])
    after.body.recompile()
    assert largest_error(program, after) == math.inf
