"""Edges of all layers chosen in one run are those that a run for each layer would choose."""

from __future__ import annotations

import pytest
import torch

from gnnexport.program.edge_layers import find_layers
from gnnexport.program.edge_sets import freeze, slots_of
from gnnexport.program.edge_walk import own_sets
from gnnexport.program.program import Program
from gnnexport.program.values import observe
from gnnexport.training.edges.choosing import Chooser, Plan, choose
from gnnexport.training.edges.scores import looked_at, message_norms
from tests.passes.edge_models import FAMILIES, graph, program_of
from tests.small_models import run


def annotated(name: str) -> Program:
    """Return a Program that edges can be chosen for."""
    program = program_of(name).clone().train(False)
    program.annotate()
    return program


@pytest.mark.parametrize("name", [*FAMILIES, "sum and max"])
def test_one_run_chooses_what_whole_runs_choose(name: str) -> None:
    """Each layer keeps the largest messages of the whole model on what the layers before it keep, to the bit."""
    program, inputs = annotated(name), graph()
    layers = find_layers(program)
    slots = slots_of(program, inputs, layers)
    done: dict[int, torch.Tensor] = {}
    left = {key: torch.ones_like(item.is_loop) for key, item in slots.items()}
    for place, item in enumerate(choose(program, inputs, layers, Plan(0.6)).layers):
        if item.reason:
            continue
        key = layers[place].structure.rowptr
        candidates = torch.nonzero(left[key]).flatten()
        frozen = freeze(program, layers, slots, {**done, place: left[key]})
        calls = layers[place].calls(frozen.body)
        seen = observe(frozen, inputs, looked_at(layers[place], frozen.body))
        norms = message_norms(calls, seen, candidates, slots[key])
        norms[slots[key].is_loop[candidates]] = float("inf")
        best = norms.argsort(descending=True, stable=True)[: int(item.stays.sum())]
        expected = torch.zeros_like(item.stays).index_fill(0, candidates[best], True)
        assert torch.equal(item.stays, expected)
        done[place] = left[key] = expected


@pytest.mark.parametrize("name", ["GCN", "GAT edge features", "SIGN"])
def test_sets_of_their_own_change_no_bit(name: str) -> None:
    """With a set of all edges for each layer the answers are those of the model."""
    program = annotated(name)
    layers = find_layers(program)
    own = own_sets(program, layers, slots_of(program, graph(), layers), range(len(layers)))
    assert torch.equal(run(own, graph()), run(program, graph()))
    assert len([key for key in own.structure_names if key.startswith("rowptr")]) == len(layers)


def test_choices_follow_weights() -> None:
    """One chooser serves a Program again and again; what it hands on is what the chosen edges make."""
    program = annotated("GAT")
    chooser = Chooser(program, graph(), find_layers(program), Plan(0.5))
    walk = chooser.walk(chooser.program)
    for _ in range(2):
        choice = chooser.choose(walk)
        expected = choose(program, graph(), find_layers(program), Plan(0.5))
        assert all(
            torch.equal(one.stays, other.stays) for one, other in zip(choice.layers, expected.layers, strict=True)
        )
        with torch.no_grad():
            answers = chooser.program.run_body(graph(), walk.structure())
        assert torch.equal(answers, run(choice.apply(program), graph()))
        with torch.no_grad():
            for ours, theirs in zip(chooser.program.body.parameters(), program.body.parameters(), strict=True):
                theirs.copy_(ours.neg_())
        walk.restart()
