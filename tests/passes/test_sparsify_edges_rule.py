"""Edges that are left out by a rule at run time, of graphs that nobody knows yet."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from gnnexport import api
from gnnexport.passes.contract import PassContext
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.pipeline.level_flips import find_flips
from gnnexport.pipeline.steps import Stepped, run_pass
from gnnexport.program.data import GraphData
from gnnexport.program.edge_rules import rules
from gnnexport.program.program import Program
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.graph_strategies import graphs
from tests.passes.checks import assert_equal_on
from tests.passes.edge_models import CONVOLUTIONS, context, data_of, graph, program_of
from tests.road import write_road
from tests.small_models import run

RULED = [*CONVOLUTIONS, "GCN weighted", "GAT edge features", "residual", "GCNII", "SGC", "APPNP", "SIGN", "switched"]


@cache
def ruled(name: str, **options: object) -> Program:
    """Run the pass for graphs of any kind; nobody may change what it returns."""
    item = SparsifyEdges(retrain=False, **options)  # type: ignore[arg-type]
    return run_pass(Stepped(program_of(name)), item, replace(context(), mode="graphs")).program


def frozen_on(name: str, inputs: dict[str, Tensor], **options: object) -> Program:
    """Leave edges of one graph out for good."""
    item = SparsifyEdges(retrain=False, **options)  # type: ignore[arg-type]
    return item.run(program_of(name), PassContext(data=GraphData("one", inputs)))


@pytest.mark.parametrize("threshold", [0.2, 1000.0])
@pytest.mark.parametrize("name", RULED)
def test_the_rule_does_what_sets_do(name: str, threshold: float) -> None:
    """The answers are those of a model whose layers have no other edges."""
    expected = run(frozen_on(name, graph(), threshold=threshold), graph())
    assert_equal_on(ruled(name, threshold=threshold), graph(), expected)


@pytest.mark.parametrize("schedule", ["rising", "equal"])
@pytest.mark.parametrize("sparsity", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("name", ["GAT edge features", "GCN weighted"])
def test_thresholds_meet_the_share(name: str, sparsity: float, schedule: str) -> None:
    """Where no two messages have the same norm, the graph looked at loses the edges that it would lose for good."""
    expected = run(frozen_on(name, graph(), sparsity=sparsity, schedule=schedule), graph())
    assert_equal_on(ruled(name, sparsity=sparsity, schedule=schedule), graph(), expected)


@pytest.mark.parametrize("name", RULED)
def test_another_graph_goes_by_the_same_thresholds(name: str) -> None:
    """A graph that was never seen loses the edges whose messages are below the threshold."""
    other = graph(seed=9)
    threshold = rules(ruled(name, sparsity=0.6))[0].threshold
    program = ruled(name, threshold=threshold)
    assert not torch.equal(run(program, other), run(program_of(name), other))
    assert_equal_on(program, other, run(frozen_on(name, other, threshold=threshold), other))


@settings(max_examples=12)
@given(inputs=graphs())
def test_any_graph_is_answered(inputs: dict[str, Tensor]) -> None:
    """One node, no edges, isolated nodes, duplicates, loops and hubs, whatever the thresholds leave out."""
    for name in ("GCN", "GraphSAGE", "GAT edge features"):
        for threshold in (0.2, 1000.0):
            program = ruled(name, threshold=threshold)
            expected = run(frozen_on(name, inputs, threshold=threshold), inputs)
            assert bool(run(program, inputs).isfinite().all())
            assert_equal_on(program, inputs, expected)


def test_thresholds_are_told() -> None:
    """One for each layer, between the messages that went and those that stayed; without any nothing changes."""
    assert [rule.threshold for rule in rules(ruled("GCN", threshold=0.25))] == [0.25, 0.25]
    first, second = rules(ruled("GCN", sparsity=0.5))
    assert first.threshold > 0
    assert second.threshold > 0
    assert rules(program_of("GCN")) == []
    assert torch.equal(run(ruled("GCN", sparsity=0.0), graph()), run(program_of("GCN"), graph()))


def test_weights_are_trained_under_the_rule() -> None:
    """Gradients reach every weight through the messages that stay."""
    data = data_of(graph())
    notes: list[str] = []
    ctx = PassContext(data=data.hide("test"), trainer=Trainer(data, Task(epochs=3)), mode="graphs", note=notes.append)
    program = SparsifyEdges(sparsity=0.5).run(program_of("GAT"), ctx)
    assert any("after retraining" in note for note in notes)
    assert any("zeros are computed with" in note for note in notes)
    program.train(True).run_body(graph(), program.structure(graph())).sum().backward()
    assert all(item.grad is not None for item in program.body.parameters())


def test_messages_on_the_border_may_fall_on_either_side() -> None:
    """A bundle is held to what sums in another order may decide."""
    program = ruled("GCN", sparsity=0.5).train(False)
    structure = program.structure(graph())
    flips = find_flips(program, graph(), structure, run(program, graph()))
    assert flips is not None
    assert flips.share < 0.2


def test_what_no_rule_tells_is_refused() -> None:
    """Draws and ranks need the whole graph; messages made of attention are not shared out anew."""
    ctx = replace(context(), mode="graphs")
    (problem,) = SparsifyEdges(method="random").check(program_of("GCN"), ctx)
    assert "by their norm" in problem.what
    (problem,) = SparsifyEdges(rule="frozen").check(program_of("GCN"), ctx)
    assert "here are many" in problem.what
    assert "left out already" in SparsifyEdges().check(ruled("GCN"), ctx)[0].what


def test_a_bundle_follows_the_rule(tmp_path: Path) -> None:
    """`compress` in mode graphs proves the exported rule against the Program, on graphs with hubs and without edges."""
    small = api.compress(
        write_road(tmp_path), passes=["sparsify-edges{sparsity=0.5,epochs=2}"], target="ort", mode="graphs",
        output=tmp_path / "small", time_budget="2s",
    )  # fmt: skip
    assert small.exit_code == 0
