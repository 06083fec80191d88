"""What is true of training, whatever the graph."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.errors import DataError, UnsupportedError
from gnnexport.program.data import GraphData
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import CLASSES, WIDTH, split

POISON = 10**6


def data(seed: int, num_nodes: int = 30) -> GraphData:
    """Make a labelled graph."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randperm(num_nodes, generator=generator)
    return GraphData(
        "random",
        {
            "x": torch.randn(num_nodes, WIDTH, generator=generator),
            "edge_index": torch.randint(0, num_nodes, (2, 80), generator=generator),
        },
        torch.randint(0, CLASSES, (num_nodes,), generator=generator),
        {"train": place < 12, "val": (place >= 12) & (place < 20), "test": place >= 20},
    )


@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_labels_of_test_nodes_are_never_read(seed: int) -> None:
    """Poisoned test labels, which would crash any loss or metric, change nothing."""
    clean = data(seed)
    assert clean.y is not None
    poisoned = replace(clean, y=torch.where(clean.masks["test"], POISON, clean.y))
    results = [Trainer(item, Task(epochs=4)).fit(split("GCN"), seed=0) for item in (clean, poisoned)]
    (first, one), (second, other) = results
    assert one == other
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_test_split_cannot_be_evaluated() -> None:
    """The trainer has no labels to judge the test nodes by."""
    with pytest.raises(DataError, match="no row to judge"):
        Trainer(data(0), Task()).evaluate(split("GCN"), "test")


def test_the_given_program_is_a_contender() -> None:
    """A step size that ruins the model returns it as it was: epoch 0 counts."""
    program = split("GCN")
    before = copy.deepcopy(program.state_dict())
    fitted, history = Trainer(data(3), Task(epochs=5, lr=1e9)).fit(program, seed=0)
    assert all(torch.equal(value, before[key]) for key, value in program.state_dict().items())
    if history.best_epoch == 0:
        assert all(torch.equal(value, before[key]) for key, value in fitted.state_dict().items())
    assert len(history.validation) == 1 + len(history.train_loss)
    assert max(history.validation) == history.validation[history.best_epoch]


def test_no_epochs_return_the_program_as_given() -> None:
    """Training for no epochs changes nothing and reports epoch 0."""
    fitted, history = Trainer(data(0), Task()).fit(split("GraphSAGE"), seed=0, epochs=0)
    state = split("GraphSAGE").state_dict()
    assert history.best_epoch == 0
    assert history.train_loss == []
    assert all(torch.equal(value, state[key]) for key, value in fitted.state_dict().items())


def test_patience_ends_training() -> None:
    """Training stops so many epochs after the best one."""
    _, history = Trainer(data(0), Task(epochs=100, patience=3, lr=1e-12)).fit(split("GCN"), seed=0)
    assert len(history.train_loss) - history.best_epoch <= 3


def test_training_lowers_the_loss() -> None:
    """Gradients reach the weights through raised message passing."""
    _, history = Trainer(data(1), Task(epochs=30, lr=0.05)).fit(split("GAT"), seed=0)
    assert history.train_loss[-1] < history.train_loss[0]


def test_equal_seeds_give_equal_weights() -> None:
    """Dropout is drawn from the seed, and the random state outside is left alone."""
    state = torch.random.get_rng_state()
    runs = [Trainer(data(0), Task(epochs=3)).fit(split("GCN batch norm"), seed=5)[0] for _ in range(2)]
    assert all(torch.equal(value, runs[1].state_dict()[key]) for key, value in runs[0].state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_missing_labels_are_an_error() -> None:
    """Labels and both masks are needed, and each must select something."""
    full = data(0)
    with pytest.raises(DataError, match="needs labels and masks"):
        Trainer(replace(full, y=None), Task())
    with pytest.raises(DataError, match="no node of the val mask has a label"):
        Trainer(replace(full, masks={**full.masks, "val": torch.zeros(30, dtype=torch.bool)}), Task())


def test_blocked_programs_are_refused() -> None:
    """A Program that training would change otherwise is not retrained, and the message says why."""
    program = split("GCN").clone()
    program.training_blocker = "jk.lstm (LSTM) computes something else in training"
    with pytest.raises(UnsupportedError, match=r"jk\.lstm .* retrain=false"):
        Trainer(data(0), Task()).fit(program, seed=0)


def test_the_drop_between_two_programs() -> None:
    """A share falls by a difference, an error by a ratio, and an original without error bears rounding."""
    base = data(0)
    program, worse, close = split("GCN"), split("GCN").clone(), split("GCN").clone()
    with torch.no_grad():
        for item, step in ((worse, 0.01), (close, 1e-8)):
            for parameter in item.body.parameters():
                parameter.add_(step)
        answers = program(base.inputs)
    numbers = Task("node-regression", "mae", "mse")
    trainer = Trainer(replace(base, y=torch.zeros(30, CLASSES)), numbers)
    before, after = (trainer.evaluate(item) for item in (program, worse))
    assert trainer.drop(program, worse) == pytest.approx((after - before) / before)
    assert Trainer(replace(base, y=answers), numbers).drop(program, close) == 0
    trainer = Trainer(base, Task())
    assert trainer.drop(program, worse) == pytest.approx(trainer.evaluate(program) - trainer.evaluate(worse))
