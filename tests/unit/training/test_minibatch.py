"""Training on neighbourhoods of some nodes at a time."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from gnnexport.errors import UnsupportedError
from gnnexport.program.data import GraphData
from gnnexport.training import trainer as trainer_module
from gnnexport.training.plan import plan_feed
from gnnexport.training.sampling import SampledFeed
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import CLASSES, WIDTH, split

NODES = 3000
LITTLE = 600_000
"""Bytes that no step on the whole graph below fits into, but some hundred nodes do."""


def data(edges: int = 3000, nodes: int = NODES, seed: int = 0) -> GraphData:
    """Make a graph whose classes show in the features of the neighbours."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (nodes,), generator=generator)
    x = torch.randn(nodes, WIDTH, generator=generator)
    x[:, :CLASSES] += 2 * torch.nn.functional.one_hot(y, CLASSES)
    edge_index = torch.randint(0, nodes, (2, 4 * edges), generator=generator)
    alike = (y[edge_index[0]] == y[edge_index[1]]).nonzero().flatten()[:edges]
    place = torch.randperm(nodes, generator=generator) * 10 // nodes
    masks = {"train": place < 5, "val": (place >= 5) & (place < 8), "test": place >= 8}
    return GraphData("random", {"x": x, "edge_index": edge_index[:, alike]}, y, masks)


def feed(name: str, given: GraphData, limit: int, *, training: bool = True) -> SampledFeed:
    """Return the feed of a graph that does not fit."""
    found = plan_feed(split(name), given, lambda which, most: [given], limit, training=training)
    assert isinstance(found, SampledFeed)
    return found


def test_enough_memory_leaves_the_graph_whole() -> None:
    """Within the limit training is bit for bit what it is without one, and says nothing of mini-batches."""
    runs = [Trainer(data(), Task(epochs=3), memory_bytes=limit).fit(split("GCN"), seed=0) for limit in (10**9, 10**10)]
    assert runs[0][1] == runs[1][1]
    assert runs[0][1].note == ""


@pytest.mark.parametrize("name", ["GraphSAGE", "GAT", "GIN"])
def test_every_training_node_is_learned_from_once_an_epoch(name: str) -> None:
    """Mini-batches hold each labelled training node once, with its label, within what a step may take."""
    given = data()
    sampled = feed(name, given, LITTLE)
    assert sampled.batches is not None
    assert sampled.batches.fanout is None
    parts = list(sampled.steps(None))
    assert len(parts) > 2
    assert given.y is not None
    assert sum(len(part.y) for part in parts) == int(given.masks["train"].sum())
    assert torch.equal(torch.cat([part.y for part in parts]).bincount(), given.y[given.masks["train"]].bincount())
    for part in parts:
        slots = sum(len(value) for name, value in zip(split(name).structure_names, part.structure, strict=True)
                    if name.startswith("col"))  # fmt: skip
        size = sampled.batches.step.bytes(part.answers, slots)
        assert size + sampled.neighbourhoods.copied_bytes(part.answers, slots) <= LITTLE


@pytest.mark.parametrize("name", ["GraphSAGE", "GAT", "GIN", "GCN"])
def test_judging_in_parts_is_judging_the_whole(name: str) -> None:
    """Validation nodes see all their neighbours, whatever fits: metric and order are those of the whole graph."""
    given = data()
    parts = list(feed(name, given, 150_000, training=False).judged("val"))
    assert len(parts) > 2
    program = split(name)
    with torch.no_grad():
        together = torch.cat([part.run(program) for part in parts])
        torch.testing.assert_close(together, program(given.inputs)[given.masks["val"]], rtol=1e-5, atol=1e-5)
    little, much = (Trainer(given, Task(), memory_bytes=limit).evaluate(program) for limit in (150_000, 10**9))
    assert little == much


def test_training_in_parts_learns() -> None:
    """Training that needs mini-batches gets as far as training on the whole graph, and says how it was done."""
    lines: list[str] = []
    task = Task(epochs=8, lr=0.01)
    _, whole = Trainer(data(), replace(task, epochs=40)).fit(split("GraphSAGE"), seed=0)
    _, parts = Trainer(data(), task, lines.append, memory_bytes=LITTLE).fit(split("GraphSAGE"), seed=0)
    assert parts.best > whole.validation[0] + 0.2
    assert parts.best == pytest.approx(whole.best, abs=0.03)
    assert parts.note.startswith("in mini-batches of ")
    assert lines[0] == f"training {parts.note}"


def test_equal_seeds_give_equal_weights() -> None:
    """Mini-batches, dropout and draws of neighbours come from the seed alone."""
    dense = data(40_000)
    trainer = Trainer(dense, Task(epochs=2), memory_bytes=3 * LITTLE // 2)
    state = torch.random.get_rng_state()
    (one, first), (same, second), (_, other) = (trainer.fit(split("GCN batch norm"), seed=seed) for seed in (3, 3, 4))
    assert "neighbours drawn" in first.note
    assert first == second
    assert first.train_loss != other.train_loss
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in one.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_deadline_ends_an_epoch() -> None:
    """When time is over no further mini-batch is trained on, and what there is is judged."""
    lines: list[str] = []
    trainer = Trainer(data(), Task(epochs=50), lines.append, time.perf_counter(), LITTLE)
    seen: list[int] = []
    original = trainer_module.Objective.of

    def counted(self: trainer_module.Objective, *given: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return original(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.Objective, "of", counted)
        _, history = trainer.fit(split("GraphSAGE"), seed=0)
    assert len(seen) == 1
    assert len(history.validation) == 2
    assert lines[-1] == "time budget spent at epoch 1"
    assert history.note.endswith(", until the time budget was spent, at epoch 1 of at most 50")


def test_patience_ends_training() -> None:
    """Training in mini-batches stops so many epochs after the best one."""
    trainer = Trainer(data(), Task(epochs=50, patience=2, lr=1e-12), memory_bytes=LITTLE)
    _, history = trainer.fit(split("GraphSAGE"), seed=0)
    assert len(history.train_loss) - history.best_epoch <= 2


def test_neighbours_are_drawn_where_all_are_too_many() -> None:
    """A hub with more neighbours than fit is trained on some of them, and judged on all."""
    given = data(500)
    hub = torch.stack([torch.arange(NODES), torch.zeros(NODES, dtype=torch.int64)])
    masks = {**given.masks, "train": given.masks["train"].clone()}
    masks["train"][0] = True
    inputs = {**given.inputs, "edge_index": torch.cat([given.inputs["edge_index"], hub], 1)}
    crowded = replace(given, inputs=inputs, masks={name: mask & (torch.arange(NODES) > 0) if name != "train" else mask
                                                   for name, mask in masks.items()})  # fmt: skip
    sampled = feed("GraphSAGE", crowded, 400_000)
    assert sampled.batches is not None
    assert sampled.batches.fanout == (25, 10)
    assert "25, then 10 neighbours drawn" in sampled.note


def test_limits_that_nothing_fits_into() -> None:
    """A limit below what one node takes is refused with the option to change; so are sums that need all neighbours."""
    with pytest.raises(UnsupportedError, match=r"0 MB are too few for .* node.* --memory"):
        Trainer(data(), Task(epochs=1), memory_bytes=5000).fit(split("GraphSAGE"), seed=0)
    with pytest.raises(UnsupportedError, match=r"none can be left out: .* takes the sum"):
        Trainer(data(60_000), Task(epochs=1), memory_bytes=LITTLE // 4).fit(split("GIN"), seed=0)
    with pytest.raises(UnsupportedError, match=r"all neighbours of node \d+"):
        Trainer(data(60_000), Task(), memory_bytes=LITTLE // 4).evaluate(split("GraphSAGE"))


def test_what_cannot_be_cut_is_trained_as_a_whole() -> None:
    """A norm over all nodes leaves no choice, and the note says which module it is."""
    trainer = Trainer(data(), Task(epochs=1), memory_bytes=LITTLE)
    _, history = trainer.fit(split("GCN graph layer norm"), seed=0)
    assert history.note.startswith("on the whole graph")
    assert "norms.0 (LayerNorm)" in history.note
