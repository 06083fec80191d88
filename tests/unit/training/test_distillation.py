"""Learning from another model's answers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from gnnexport import spec
from gnnexport.passes.contract import Pass, PassContext
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.passes.sparsify_weights import SparsifyWeights
from gnnexport.program.program import Program
from gnnexport.training import parts
from gnnexport.training.distillation import Objective, divergence
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import split
from tests.targets.requests import graph_program
from tests.unit.training.test_minibatch import LITTLE, data
from tests.unit.training.test_sets import graph_set


def shaken(program: Program) -> Program:
    """Return a Program with other weights."""
    other = program.clone()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for item in other.body.parameters():
            item.add_(0.5 * torch.randn(item.shape, generator=generator))
    return other


def test_divergence_by_hand() -> None:
    """Scores are compared as probabilities, logits label by label, numbers by their squares."""
    ours, theirs = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(divergence("cross-entropy", ours, theirs)) == pytest.approx(expected)
    assert float(divergence("nll", ours.log_softmax(1), theirs.log_softmax(1))) == pytest.approx(expected)
    assert float(divergence("bce", torch.zeros(1), torch.tensor([math.log(3.0)]))) == pytest.approx(math.log(2))
    assert float(divergence("l1", torch.tensor([1.0]), torch.tensor([4.0]))) == 9


def test_shares_are_from_0_to_1() -> None:
    """The loss and the divergence are weighed by the share, and another share is refused."""
    output, y, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([1]), torch.tensor([[0.0, 2.0]])
    hard, soft = (Objective("cross-entropy", share).of(output, y, teacher) for share in (0.0, 1.0))
    both = Objective("cross-entropy", 0.25).of(output, y, teacher)
    assert float(both) == pytest.approx(0.75 * float(hard) + 0.25 * float(soft))
    with pytest.raises(ValueError, match="distil must be from 0 to 1"):
        Objective("mse", 1.5)


@pytest.mark.parametrize("limit", [10**9, LITTLE])
def test_answers_move_towards_the_teacher(limit: int) -> None:
    """Whole or in mini-batches, the share draws answers to the teacher's, which is left as it was."""
    given, teacher = data(), split("GraphSAGE").clone().train(True)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = shaken(teacher)
    epochs = 60 if limit == 10**9 else 6
    trainer = Trainer(given, Task(epochs=epochs, patience=epochs), memory_bytes=limit)
    rows = given.masks["train"]
    apart = []
    for share in (0.0, 1.0):
        fitted, history = trainer.fit(student, seed=0, teacher=teacher, distil=share)
        # The best epoch is chosen by labels: only what came out at the end of it can be compared.
        assert history.best_epoch > 0
        with torch.no_grad():
            answers = teacher.clone().train(False)(given.inputs)[rows]
            apart.append(float(divergence("cross-entropy", fitted(given.inputs)[rows], answers)))
    assert apart[1] < apart[0] / 2
    assert teacher.training
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_nodes_without_labels_teach_too() -> None:
    """Answers for all nodes of a graph are learned from where that is asked for; labels of test nodes never are."""
    given, teacher = data(), split("GraphSAGE")
    rows, train = given.masks["test"], given.masks["train"]
    few = train & (train.cumsum(0) <= 10)
    trainer = Trainer(replace(given, masks={**given.masks, "train": few}), Task(epochs=60, patience=60))
    apart = []
    with torch.no_grad():
        answers = teacher.clone().train(False)(given.inputs)[rows]
    for everywhere in (False, True):
        fitted, _ = trainer.fit(shaken(teacher), seed=0, teacher=teacher, distil=1.0, everywhere=everywhere)
        with torch.no_grad():
            apart.append(float(divergence("cross-entropy", fitted(given.inputs)[rows], answers)))
    assert apart[1] < apart[0]


@pytest.mark.parametrize("item", [SparsifyEdges, SparsifyWeights])
def test_passes_say_which_nodes_teach(item: type[Pass], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a graph, unless it is said otherwise."""
    asked: list[bool] = []
    fit = Trainer.fit

    def watched(*given: Any, **options: Any) -> object:
        asked.append(options["everywhere"])
        return fit(*given, **options)

    monkeypatch.setattr(Trainer, "fit", watched)
    ctx = PassContext(data=data(), trainer=Trainer(data(), Task(epochs=1)))
    for options in ("", ",distil_on=all", ",distil_on=train"):
        built = spec.build(item, spec.parse(f"{item.name}{{sparsity=0.5,distil=0.5{options}}}"))
        assert built.check(split("GCN"), ctx) == []
        built.run(split("GCN"), ctx)
    assert asked == [True, True, False]


def test_mini_batches_say_that_they_learn_about_training_nodes_alone() -> None:
    """Where memory allows no step on the whole graph, answers for all nodes cannot be learned from."""
    for limit, everywhere, told in ((10**9, True, False), (LITTLE, True, True), (LITTLE, False, False)):
        trainer = Trainer(data(), Task(epochs=1), memory_bytes=limit)
        program = split("GraphSAGE")
        _, history = trainer.fit(program, seed=0, teacher=program, distil=0.5, everywhere=everywhere)
        assert ("for training nodes alone" in history.note) is told
    _, history = trainer.fit(program, seed=0, everywhere=True)
    assert "in mini-batches" in history.note
    assert "training nodes alone" not in history.note


def test_graphs_of_a_set_do_not_teach_about_others() -> None:
    """There `distil_on=all` would have no effect, and is refused."""
    ctx = PassContext(data=graph_set(), trainer=Trainer(graph_set(), Task(epochs=1)), mode="graphs")
    for item in (SparsifyEdges, SparsifyWeights):
        assert item(distil=0.5).check(graph_program("sum"), ctx) == []
        (problem,) = item(distil=0.5, distil_on="all").check(graph_program("sum"), ctx)
        assert "set of graphs" in problem.what
        assert problem.mend == "Drop distil_on=all"


def test_nothing_to_learn_from_itself() -> None:
    """A model taught by itself alone has no loss from the first epoch on, however nodes are batched."""
    for limit in (10**9, LITTLE):
        trainer = Trainer(data(), Task(epochs=1), memory_bytes=limit)
        program = split("GraphSAGE")
        _, history = trainer.fit(program, seed=0, lr=1e-12, teacher=program, distil=1.0)
        assert history.train_loss[0] == pytest.approx(0, abs=1e-6)


def test_graphs_of_a_set_are_taught_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of a set gets the teacher's answers for its own graphs, in whatever order pieces come."""
    monkeypatch.setattr(parts, "LARGE_NODES", 10)
    monkeypatch.setattr(parts, "BATCH_NODES", 15)
    program = graph_program("sum")
    trainer = Trainer(graph_set(), Task("graph-classification", epochs=1))
    _, history = trainer.fit(program, seed=0, lr=1e-12, teacher=program, distil=1.0)
    assert history.train_loss[0] == pytest.approx(0, abs=1e-6)


def test_without_a_share_the_teacher_is_not_asked() -> None:
    """A share of zero trains as without a teacher, bit for bit."""
    trainer = Trainer(data(), Task(epochs=3))
    runs = [trainer.fit(split("GCN"), seed=0, **more)[1] for more in ({}, {"teacher": split("GAT"), "distil": 0.0})]
    assert runs[0] == runs[1]
