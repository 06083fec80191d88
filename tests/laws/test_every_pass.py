"""What is true of every pass there is: a new file in `passes/` is tested here without being named."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from gnnexport import spec
from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.program.text import to_text
from gnnexport.program.verify import verify
from gnnexport.registry import build_passes, pass_classes
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.graph_strategies import graphs
from tests.passes.checks import assert_equal_on
from tests.small_models import CLASSES, EDGE_WIDTH, WIDTH, captured, raised, run, split

NODES, EDGES = 40, 120
SPLIT = {"split": split}
ANY = {"captured": captured, "raised": raised, **SPLIT}
FORMS = {Stage.SIMPLIFY: ANY, Stage.COMPRESS: SPLIT, Stage.FINALISE: SPLIT}
"""The forms of a Program that the passes of a stage may be given."""

PASSES = sorted(pass_classes())
KEEPING = [name for name in PASSES if pass_classes()[name].stage is not Stage.COMPRESS]
MODELS = ["GCN batch norm", "GAT edge features", "Sequential", "two_structures"]


MODES: dict[str, Mode] = {"pack-features": "batched"}
"""Of passes that serve another mode than `full`."""


@cache
def context(name: str) -> PassContext:
    """A graph with labels, and a trainer of two epochs, for a pass of this name."""
    generator = torch.Generator().manual_seed(1)
    part = torch.arange(NODES) % 3
    data = GraphData(
        "random",
        {
            "x": torch.randn(NODES, WIDTH, generator=generator),
            "edge_index": torch.randint(0, NODES, (2, EDGES), generator=generator),
            "edge_weight": torch.rand(EDGES, generator=generator) + 0.1,
            "edge_attr": torch.randn(EDGES, EDGE_WIDTH, generator=generator),
        },
        torch.randint(0, CLASSES, (NODES,), generator=generator),
        {name: part == index for index, name in enumerate(("train", "val", "test"))},
    )
    mode = MODES.get(name, "full")
    return PassContext(data=data.hide("test"), trainer=Trainer(data, Task(epochs=2)), mode=mode)


def accepted(item: Pass, model: str) -> dict[str, Program]:
    """Return the forms of a model that a pass accepts."""
    programs = {form: build(model) for form, build in FORMS[item.stage].items()}
    return {form: program for form, program in programs.items() if not item.check(program, context(item.name))}


@cache
def results(name: str, model: str) -> dict[str, Program]:
    """Run a pass on every form that it accepts."""
    item = pass_classes()[name]()
    return {form: item.run(program, context(name)) for form, program in accepted(item, model).items()}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", PASSES)
def test_the_program_given_is_left_as_it_was(name: str, model: str) -> None:
    """Neither `check` nor `run` changes the text of the Program, its weights or its mode; the result is well formed."""
    item = pass_classes()[name]()
    for build in FORMS[item.stage].values():
        given = build(model).clone()
        text, state, training = to_text(given), {k: v.clone() for k, v in given.state_dict().items()}, given.training
        if not item.check(given, context(name)):
            assert verify(item.run(given, context(name))) == []
        assert to_text(given) == text
        assert given.training == training
        assert given.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in given.state_dict().items())


@pytest.mark.parametrize("name", PASSES)
def test_some_model_is_accepted(name: str) -> None:
    """A pass that refuses everything would pass all these tests."""
    assert any(accepted(pass_classes()[name](), model) for model in MODELS)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", KEEPING)
@settings(max_examples=6)
@given(graph=graphs())
def test_simplifying_and_finalising_keep_every_output(name: str, model: str, graph: dict[str, Tensor]) -> None:
    """Outputs stay equal on graphs of one node, without edges, with duplicates, self-loops and hubs."""
    expected = run(captured(model), graph)
    for result in results(name, model).values():
        assert_equal_on(result, graph, expected)


@pytest.mark.parametrize("name", PASSES)
def test_its_spec_is_read_back(name: str) -> None:
    """What a report says of a pass builds the same pass."""
    ladder = [f"{name}{{{options}}}" for options in pass_classes()[name].ladder]
    for item in build_passes([name, *ladder]):
        assert build_passes([str(spec.describe(item))]) == [item]
