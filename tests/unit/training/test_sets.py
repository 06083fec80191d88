"""Training on sets of graphs and on pairs of nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gnnexport.errors import DataError
from gnnexport.program.data import GraphData
from gnnexport.training import parts
from gnnexport.training.parts import split_set
from gnnexport.training.task import Task, infer_task
from gnnexport.training.trainer import Trainer
from tests.small_models import CLASSES, WIDTH
from tests.targets.requests import graph_program, pair_program

GRAPHS = 30


def graph_set(y: Tensor | None = None, seed: int = 0) -> GraphData:
    """Make a set of graphs of 1 to 6 nodes whose class shows in their features; the last is of the test."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 7, (GRAPHS,), generator=generator)
    starts = counts.cumsum(0) - counts
    batch = torch.repeat_interleave(torch.arange(GRAPHS), counts)
    edges = torch.stack([torch.arange(len(batch)), starts[batch]])
    classes = torch.arange(GRAPHS) % CLASSES
    x = torch.randn(len(batch), WIDTH, generator=generator)
    x[:, 0] += classes[batch]
    place = torch.arange(GRAPHS) % 5
    masks = {"train": place < 3, "val": place == 3, "test": place == 4}
    inputs = {"x": x, "edge_index": edges, "batch": batch, "num_graphs": torch.tensor(GRAPHS)}
    return GraphData("set", inputs, classes if y is None else y, masks, "graph")


def pair_data(seed: int = 0) -> GraphData:
    """Make a graph of 20 nodes and 60 labelled pairs."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(60) % 3
    inputs = {
        "x": torch.randn(20, WIDTH, generator=generator),
        "edge_index": torch.randint(0, 20, (2, 50), generator=generator),
        "edge_label_index": torch.randint(0, 20, (2, 60), generator=generator),
    }
    y = torch.randint(0, 2, (60,), generator=generator)
    return GraphData("pairs", inputs, y, {"train": place == 0, "val": place == 1, "test": place == 2}, "pair")


def test_graphs_are_classified() -> None:
    """Gradients reach the weights through the readout, and the loss falls."""
    data = graph_set()
    task = infer_task("graph", data.y, CLASSES, epochs=30, lr=0.05)
    _, history = Trainer(data, task).fit(graph_program("sum"), seed=0)
    assert history.train_loss[-1] < history.train_loss[0] / 2
    assert history.best == max(history.validation)


def test_other_graphs_are_not_even_run() -> None:
    """Features and labels of test graphs, and in training those of validation graphs, are never looked at."""
    data = graph_set()
    poisoned = data.inputs["x"].clone()
    poisoned[data.masks["test"][data.inputs["batch"]]] = float("nan")
    assert data.y is not None
    y = torch.where(data.masks["test"], 10**6, data.y)
    other = replace(data, inputs={**data.inputs, "x": poisoned}, y=y)
    task = Task("graph-classification", epochs=3)
    first, second = (Trainer(item, task).fit(graph_program("mean"), seed=0)[1] for item in (data, other))
    assert first == second


def test_errors_are_better_when_lower() -> None:
    """Selection keeps the epoch with the smallest error, and patience counts from there."""
    data = graph_set(torch.randn(GRAPHS, CLASSES, generator=torch.Generator().manual_seed(3)))
    task = infer_task("graph", data.y, CLASSES, epochs=15, lr=0.02)
    assert (task.metric, task.loss) == ("mae", "mse")
    program, history = Trainer(data, task).fit(graph_program("mean"), seed=0)
    assert history.best == min(history.validation) < history.validation[0]
    assert Trainer(data, task).evaluate(program, "val") == pytest.approx(history.best)
    _, still = Trainer(data, replace(task, lr=1e-12, patience=2)).fit(graph_program("mean"), seed=0)
    assert len(still.train_loss) - still.best_epoch <= 2


@pytest.mark.parametrize("metric", ["roc-auc", "average-precision", "hits@5"])
def test_pairs_are_predicted(metric: str) -> None:
    """Link prediction trains on one logit a pair, [rows], and is judged as a ranking."""
    data = pair_data()
    task = infer_task("pair", data.y, 1, metric=metric, epochs=20, lr=0.02)
    assert task.loss == "bce"
    _, history = Trainer(data, task).fit(pair_program(), seed=0)
    assert history.train_loss[-1] < history.train_loss[0]
    assert history.best == max(history.validation)


def test_large_sets_are_trained_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mini-batches hold every graph of the split once, and judging them together is judging them at once."""
    data = graph_set()
    task = Task("graph-classification", epochs=4, lr=0.05)
    whole = Trainer(data, task).evaluate(graph_program("sum"), "train")
    monkeypatch.setattr(parts, "LARGE_NODES", 10)
    monkeypatch.setattr(parts, "BATCH_NODES", 15)
    pieces = split_set(data, "train", seed=0)
    assert len(pieces) > 3
    assert sum(piece.num_graphs or 0 for piece in pieces) == int(data.masks["train"].sum())
    assert all(piece.num_nodes <= 15 + 6 for piece in pieces)
    assert all(bool(piece.masks["train"].all()) for piece in pieces)
    trainer = Trainer(data, task)
    assert trainer.evaluate(graph_program("sum"), "train") == pytest.approx(whole)
    runs = [trainer.fit(graph_program("sum"), seed=seed)[1] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert runs[0].train_loss[-1] < runs[0].train_loss[0]


def test_nodes_of_a_set() -> None:
    """Where rows are nodes, the graphs with a labelled node of the split are run."""
    data = graph_set()
    batch = data.inputs["batch"]
    node = replace(data, y=batch % 2, masks={name: mask[batch] for name, mask in data.masks.items()}, level="node")
    (piece,) = split_set(node, "val")
    assert piece.num_graphs == int(data.masks["val"].sum())
    assert piece.y is not None
    assert len(piece.y) == piece.num_nodes


def test_labels_of_another_level() -> None:
    """A model that answers for graphs cannot be judged by labels of nodes."""
    data = graph_set()
    batch = data.inputs["batch"]
    node = replace(data, y=batch % 2, masks={name: mask[batch] for name, mask in data.masks.items()}, level="node")
    with pytest.raises(DataError, match=r"answers for .* rows where there are labels for"):
        Trainer(node, Task()).evaluate(graph_program("sum"))
