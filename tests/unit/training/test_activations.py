"""What linear maps read, computed on the whole graph or on neighbourhoods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import fx

from gnnexport.errors import UnsupportedError
from gnnexport.passes.contract import PassContext
from gnnexport.passes.prune_channels import PruneChannels
from gnnexport.program.footprint import peak_bytes
from gnnexport.program.program import Program
from gnnexport.training import activations as module
from gnnexport.training.activations import Activations
from gnnexport.training.selection import Rows
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import split
from tests.unit.training.test_minibatch import NODES, data

LITTLE = 400_000
"""Bytes that running the graph below does not fit into."""


def annotated(name: str) -> tuple[Program, list[fx.Node]]:
    """Return a Program and the linear maps of its body."""
    program = split(name).clone().train(False)
    program.annotate()
    return program, list(program.body.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default))


def as_set(rows: Rows) -> set[bytes]:
    """Return rows without their order, to four digits."""
    return {row.tobytes() for row in np.round(rows, 4) + 0.0}


@pytest.mark.parametrize("name", ["GraphSAGE", "GCN", "GIN", "GAT", "residual"])
def test_all_rows_in_parts_are_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many rows as nodes, neighbourhoods together give what the whole graph gives."""
    inputs = data().inputs
    program, maps = annotated(name)
    whole = Activations(inputs, NODES, 0, 10**10).read(program, maps)
    parts: list[int] = []
    original = module._read

    def counted(program: Program, given: object, *more: object) -> object:
        parts.append(1)
        return original(program, given, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_read", counted)
    monkeypatch.setattr(module, "_FLOAT_BYTES", 0)  # rows that are kept would take more than a little memory
    cut = Activations(inputs, NODES, 0, LITTLE).read(program, maps)
    assert len(parts) > 4
    assert list(cut) == list(whole)
    order = torch.randperm(NODES, generator=torch.Generator().manual_seed(0)).numpy()
    for node in maps:
        np.testing.assert_allclose(cut[node], whole[node][order], rtol=1e-5, atol=1e-5)


def test_maps_of_edges_read_the_edges_of_the_nodes_drawn() -> None:
    """Where a map reads edges, those that lead to the drawn nodes are read, and no others."""
    inputs = {**data().inputs}
    inputs["edge_attr"] = torch.randn(inputs["edge_index"].shape[1], 4, generator=torch.Generator().manual_seed(1))
    program, maps = annotated("GAT edge features")
    whole = Activations(inputs, 10**6, 0, 10**10).read(program, maps)
    cut = Activations(inputs, 10, 0, LITTLE).read(program, maps)
    for node in maps:
        assert 0 < len(cut[node]) <= 10
        assert as_set(cut[node]) <= as_set(whole[node])


@pytest.mark.parametrize("rows", [NODES, 50])
def test_a_second_reading_is_of_the_same_nodes(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of a smaller network, which might fit as a whole, can be laid beside what was read of the larger."""
    inputs = data().inputs
    program, maps = annotated("GraphSAGE")
    monkeypatch.setattr(module, "_FLOAT_BYTES", 0)  # rows that are kept would take more than a little memory
    activations = Activations(inputs, rows, 0, LITTLE)
    first = activations.read(program, maps)
    monkeypatch.setattr(module, "value_bytes", lambda *_: 0)
    again = activations.read(program, maps[:2])
    assert list(again) == maps[:2]
    for node, found in again.items():
        np.testing.assert_allclose(found, first[node], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("limit", [700_000, 500_000])
def test_pruning_within_a_limit_that_the_smaller_network_meets(limit: int) -> None:
    """Readers are fitted as well as on the whole graph, though only the unpruned network is too large for it."""
    given, before = data(), split("GraphSAGE")
    lost = []
    for allowed in (10**10, limit):
        ctx = PassContext(given, memory_bytes=allowed)
        after = PruneChannels(keep=0.5, retrain=False).run(before, ctx)
        with torch.no_grad():
            answers = before(given.inputs)
            lost.append(float((after(given.inputs) - answers).norm() / answers.norm()))
    assert lost[1] == pytest.approx(lost[0], rel=0.05)


def test_reading_stays_within_the_limit() -> None:
    """Tensors take no more than the limit at the peak, where the whole graph takes several times as much."""
    inputs = data(30_000, 30_000).inputs
    program, maps = annotated("GraphSAGE")
    whole, cut = (
        peak_bytes(lambda limit=limit: Activations(inputs, 500, 0, limit).read(program, maps))  # type: ignore[misc]
        for limit in (10**10, 2 * 10**6)
    )
    structure = peak_bytes(lambda: program.structure(inputs))
    assert cut - structure <= 2 * 10**6
    assert whole - structure > 3 * 10**6


def test_pruning_in_parts_chooses_much_the_same() -> None:
    """Pruned on neighbourhoods and retrained in mini-batches, a model is as good, and the report says how."""
    given = data()
    found = []
    for limit in (10**10, 600_000):
        notes: list[str] = []
        trainer = Trainer(given, Task(epochs=5), memory_bytes=limit)
        ctx = PassContext(given, trainer, note=notes.append, memory_bytes=limit // 4)
        pruned = PruneChannels(keep=0.5, multiple=1, rows=1000).run(split("GraphSAGE"), ctx)
        found.append(trainer.evaluate(pruned))
        assert any(note.startswith("retrained in mini-batches") for note in notes) == (limit == 600_000)
    assert found[1] > found[0] - 0.05


def test_a_limit_that_nothing_fits_into() -> None:
    """The error says what to change."""
    program, maps = annotated("GraphSAGE")
    with pytest.raises(UnsupportedError, match=r"0 MB are too few for all neighbours of node \d+\. Allow more"):
        Activations(data().inputs, 10, 0, 300).read(program, maps)
