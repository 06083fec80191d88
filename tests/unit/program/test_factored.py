from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from gnnexport.passes.contract import PassContext
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.program.factored import factor_weights
from gnnexport.program.program import Program
from gnnexport.program.verify import verify
from tests.graph_strategies import graphs
from tests.passes.checks import assert_equal_on
from tests.small_models import ops, run, split

FACTORED = ["GCN", "GCN improved", "GCN batch norm", "GCN jumping knowledge", "Sequential"]


def ordered(name: str) -> Program:
    """Return a model after the canonical passes, annotated."""
    program = OrderPropagation().run(split(name), PassContext()).clone()
    program.annotate()
    return program


@pytest.mark.parametrize("name", FACTORED)
@settings(max_examples=10)
@given(graph=graphs())
def test_outputs_stay(name: str, graph: dict[str, Tensor]) -> None:
    """A weight of GCN becomes a scale of rows before and behind the sum, on any graph."""
    program = ordered(name)
    assert factor_weights(program) > 0
    assert verify(program) == []
    assert all(node.args[3] is None for node in program.body.graph.nodes if str(node.target) == "gnn.aggregate.default")
    assert not any(value.startswith("weight") for value in program.structure_names)
    assert_equal_on(program, graph, run(split(name), graph))


@pytest.mark.parametrize("name", ["GCN weighted", "GCN without self-loops", "GraphSAGE", "GAT", "GIN"])
def test_other_sums_are_left(name: str) -> None:
    """Weights that edges bring, attention, and sums without weights stay."""
    program = ordered(name)
    before = ops(program)
    assert factor_weights(program) == 0
    assert ops(program) == before


def test_dropout_stays_behind_the_scale() -> None:
    """The rows are scaled before dropout, so that they can be rounded there; in training the mask is the same."""
    program = ordered("GCN batch norm")
    dropout = next(node for node in program.body.graph.nodes if str(node.target) == "aten.dropout.default")
    linear = next(iter(dropout.users))
    aggregate = next(iter(linear.users))
    linear.replace_all_uses_with(dropout)  # an aggregation right behind dropout
    program.body.graph.erase_node(linear)
    program.body.recompile()
    program.annotate()
    example = program.example()
    expected = trained(program, example)
    factor_weights(program)
    assert not aggregate.users
    torch.testing.assert_close(trained(program, example), expected)


def trained(program: Program, example: dict[str, Tensor]) -> Tensor:
    """Run in training with a seed."""
    program = program.clone().train(True)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return run(program, example)
