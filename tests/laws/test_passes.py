"""What is true of the passes in the order in which they run, on any graph."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import FINAL
from gnnexport.program.program import Program
from tests.graph_strategies import graphs, permutations
from tests.passes.checks import assert_equal_on
from tests.small_models import BUILDERS, captured, raised, run, run_model, split

UNEXPORTED = {"GCN batch norm of the batch"}
"""PyTorch refuses to normalise a single node by its own statistics."""

MODELS = [name for name in BUILDERS if name not in UNEXPORTED]

IN_TRAINING = ["GCN batch norm", "residual", "GAT"]


@cache
def final(name: str) -> Program:
    """Run the passes that come last."""
    program = split(name)
    for item in FINAL:
        program = item.run(program, PassContext())
    return program


STAGES = {"captured": captured, "raised": raised, "split": split, "final": final}


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=12)
@given(graph=graphs())
def test_no_pass_changes_an_output(name: str, graph: dict[str, Tensor]) -> None:
    """Every stage computes what the model computes, on graphs of one node, without edges, with duplicates."""
    expected = run_model(name, graph)
    for stage in STAGES.values():
        assert_equal_on(stage(name), graph, expected)


@settings(max_examples=20)
@given(graph=graphs(), name=st.sampled_from(["GCN weighted", "GAT edge features", "PNA"]))
def test_inputs_are_left_alone(graph: dict[str, Tensor], name: str) -> None:
    """Running a Program writes to none of its inputs."""
    before = copy.deepcopy(graph)
    run(final(name), graph)
    assert all(torch.equal(graph[key], before[key]) for key in graph)


@settings(max_examples=40)
@given(data=st.data(), graph=graphs(), name=st.sampled_from(MODELS))
def test_permuted_nodes_give_permuted_outputs(data: st.DataObject, graph: dict[str, Tensor], name: str) -> None:
    """Renaming the nodes renames the rows of the output."""
    order = data.draw(permutations(graph["x"].shape[0]))
    renamed = {**graph, "x": graph["x"][order], "edge_index": torch.argsort(order)[graph["edge_index"]]}
    assert_equal_on(final(name), renamed, run(final(name), graph)[order])


@settings(max_examples=40)
@given(data=st.data(), graph=graphs(), name=st.sampled_from(MODELS))
def test_order_of_edges_does_not_matter(data: st.DataObject, graph: dict[str, Tensor], name: str) -> None:
    """The same edges in another order, with their weights and features, give the same output."""
    order = data.draw(permutations(graph["edge_index"].shape[1]))
    moved = {
        "x": graph["x"],
        "edge_index": graph["edge_index"][:, order],
        "edge_weight": graph["edge_weight"][order],
        "edge_attr": graph["edge_attr"][order],
    }
    assert_equal_on(final(name), moved, run(final(name), graph))


@pytest.mark.parametrize("name", IN_TRAINING)
@settings(max_examples=5)
@given(graph=graphs().filter(lambda graph: graph["x"].shape[0] > 1))
def test_training_is_a_switch(name: str, graph: dict[str, Tensor]) -> None:
    """Switched to training and back, a Program gives its evaluation outputs again, and training draws masks."""
    program = split(name).clone()
    state = copy.deepcopy(program.state_dict())
    expected = run(program, graph)
    program.train(True)
    flags = [node.args for node in program.body.graph.nodes if "dropout" in str(node.target)]
    assert all(args[2] is True for args in flags)
    run(program, graph)
    program.load_state_dict(state)
    assert torch.equal(run(program.train(False), graph), expected)


@settings(max_examples=5)
@given(graph=graphs().filter(lambda graph: graph["x"].shape[0] > 2))
def test_training_updates_the_statistics(graph: dict[str, Tensor]) -> None:
    """In training a batch normalisation follows the batch; in evaluation it does not."""
    program = split("GCN batch norm").clone()
    key = next(name for name in program.state_dict() if "running_mean" in name)
    before = program.state_dict()[key].clone()
    run(program, graph)
    assert torch.equal(program.state_dict()[key], before)
    run(program.train(True), graph)
    assert not torch.equal(program.state_dict()[key], before)
