"""The protocol of publications beside the honest figure."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import GCN

from gnnexport.errors import UnsupportedError
from gnnexport.frontends.signature import match_inputs
from gnnexport.passes.contract import PassContext
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.pipeline.steps import CANONICAL, Stepped, run_pass, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData, Split
from gnnexport.program.edge_layers import find_layers
from gnnexport.program.program import Program, example_inputs
from gnnexport.training.edges.choosing import Method, Plan
from gnnexport.training.edges.published import fit_published
from gnnexport.training.task import Task
from gnnexport.training.trainer import History, Trainer

NODES, CLASSES, EPOCHS = 150, 3, 15


@cache
def homophilous() -> GraphData:
    """Return a graph whose edges join nodes of one class, and whose features tell little."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(NODES) % CLASSES
    x = torch.randn(NODES, 6, generator=generator)
    x[torch.arange(NODES), y] += 0.6
    source = torch.randint(0, NODES, (1200,), generator=generator)
    step = CLASSES * torch.randint(1, NODES // CLASSES, (1200,), generator=generator)
    part = torch.arange(NODES) // CLASSES % 3
    masks: dict[Split, Tensor] = {"train": part == 0, "val": part == 1, "test": part == 2}
    return GraphData("homophilous", {"x": x, "edge_index": torch.stack([source, (source + step) % NODES])}, y, masks)


def trainer_of(memory_bytes: int | None = None) -> Trainer:
    """Return what trains on that graph."""
    return Trainer(homophilous(), Task(lr=0.03, epochs=EPOCHS), memory_bytes=memory_bytes)


@cache
def untrained() -> Program:
    """Capture a GCN."""
    data = homophilous()
    torch.manual_seed(0)
    model = GCN(6, 16, 2, CLASSES, dropout=0.3).eval()
    inputs = match_inputs(model, data)
    return run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext(data=data)).program


@cache
def trained() -> Program:
    """Train it on all edges."""
    return trainer_of().fit(untrained(), seed=0, epochs=40)[0]


def published(plan: Plan) -> tuple[Program, History]:
    """Follow the protocol from the trained model on."""
    program = trained().clone().train(False)
    program.annotate()
    return fit_published(trainer_of(), program, homophilous().inputs, find_layers(program), plan, seed=0)


def context(trainer: Trainer | None = None) -> PassContext:
    """Return the context of a pass."""
    return PassContext(homophilous().hide("test"), trainer or trainer_of())


def test_without_edges_the_published_figure_stays_and_the_honest_one_falls() -> None:
    """With all edges gone the first is still that of a graph, the second that of a model that never had one."""
    whole = trainer_of().evaluate(trained())
    alone = SparsifyEdges(1.0, retrain=False).run(untrained(), context())
    graphless = trainer_of().fit(alone, seed=0, epochs=40 + EPOCHS)[1].best
    step = run_pass(Stepped(trained()), SparsifyEdges(1.0, published=True), context()).steps[-1]
    (note,) = (line for line in step.notes if "protocol of publications" in line)
    assert "of no model that is exported" in note
    told = float(note.partition("validation accuracy ")[2].split()[0])
    assert step.metric is not None
    assert f"next to {step.metric:.4f} on the edges" in note
    assert graphless < whole - 0.15
    assert told == pytest.approx(whole, abs=0.08)
    assert step.metric == pytest.approx(graphless, abs=0.08)


def test_on_all_edges_it_is_plain_training() -> None:
    """Nothing left out, every epoch is that of training on all edges, bit for bit."""
    _, ours = published(Plan(0.0))
    _, plain = trainer_of().fit(trained(), seed=0)
    assert ours.train_loss == plain.train_loss
    assert ours.validation == plain.validation
    assert ours.best_epoch > 0


@pytest.mark.parametrize("method", ["norm", "random"])
def test_steps_are_taken_on_the_edges_left(method: Method) -> None:
    """The first epoch learns on the edges that the model as given leaves; what comes back has all of them."""
    program, ours = published(Plan(0.7, method=method))
    frozen = SparsifyEdges(0.7, method=method, retrain=False).run(trained(), context())
    _, honest = trainer_of().fit(frozen, seed=0, epochs=1)
    assert ours.train_loss[0] == pytest.approx(honest.train_loss[0], rel=1e-6)
    assert ours.best == trainer_of().evaluate(program)
    whole = trained().clone()
    whole.body.load_state_dict(program.body.state_dict())
    inputs = homophilous().inputs
    with torch.no_grad():
        assert torch.equal(program(inputs), whole.train(False)(inputs))


def test_edges_are_chosen_anew_in_every_epoch() -> None:
    """What is trained on follows the weights: from the second epoch on it is another set than the frozen one."""
    _, ours = published(Plan(0.7))
    frozen = SparsifyEdges(0.7, retrain=False).run(trained(), context())
    _, honest = trainer_of().fit(frozen, seed=0)
    assert ours.train_loss[-1] != pytest.approx(honest.train_loss[-1], rel=1e-6)


def test_it_needs_the_whole_graph_at_once() -> None:
    """A limit of memory that asks for mini-batches is told of before anything is trained, and by training itself."""
    tight = trainer_of(memory_bytes=100_000)
    item = SparsifyEdges(0.5, published=True)
    (problem,) = item.check(trained(), context(tight))
    assert "whole graph" in problem.what
    assert "--memory" in problem.mend
    program = trained().clone().train(False)
    program.annotate()
    with pytest.raises(UnsupportedError, match="whole graph"):
        fit_published(tight, program, homophilous().inputs, find_layers(program), Plan(0.5), seed=0)


def test_it_is_of_edges_left_out_for_good() -> None:
    """A rule at run time has no protocol of publications."""
    (problem,) = SparsifyEdges(published=True, rule="runtime").check(trained(), context())
    assert "left out for good" in problem.what
    (problem,) = SparsifyEdges(published=True).check(trained(), replace(context(), trainer=None))
    assert "without labels" in problem.what
