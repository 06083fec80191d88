"""Sparsity of edges and weights, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch_geometric.nn import GCN

from gnnexport import api
from gnnexport.bundle.report_schema import SparseWeight
from gnnexport.pipeline import sparsity
from gnnexport.pipeline.sparsity import count_sparsity
from gnnexport.program.edge_sets import Layer
from gnnexport.program.program import Program
from gnnexport.targets.contract import Artefact
from gnnexport.targets.onnx.sparse_weights import Weight
from tests.road import CHANNELS, CLASSES, write_road
from tests.small_models import split

WEIGHTS = (
    Weight("first", numbers=1000, zeros=900, dense_bytes=4000, stored_bytes=500, skipped=900, layout="sparse"),
    Weight("second", numbers=200, zeros=150, dense_bytes=800, stored_bytes=800),
    Weight("third", numbers=300, zeros=0, dense_bytes=1200, stored_bytes=1200),
)
ARTEFACT = Artefact("model.onnx", ("model.onnx",), weights=WEIGHTS)


def program(*sparse: str) -> Program:
    """Return a Program with these sparse weights."""
    found = split("GCN").clone()
    found.sparse_weights = frozenset(sparse)
    return found


def test_zeros_that_no_pass_put_there_say_nothing() -> None:
    """A model with incidental zeros is no sparse model."""
    assert count_sparsity(program(), ARTEFACT) is None


def test_stored_and_executed_are_shares_of_the_same_numbers() -> None:
    """Matrices without zeros count in the shares, and are not listed."""
    found = count_sparsity(program("first", "second"), ARTEFACT)
    assert found is not None
    assert found.edges is None
    assert found.weights_stored == pytest.approx(1050 / 1500)
    assert found.weights_executed == pytest.approx(900 / 1500)
    assert (found.dense_bytes, found.stored_bytes) == (6000, 2500)
    assert found.weights == (
        SparseWeight(
            name="first", numbers=1000, zeros=900, skipped=900, layout="sparse", dense_bytes=4000, stored_bytes=500
        ),
        SparseWeight(name="second", numbers=200, zeros=150, dense_bytes=800, stored_bytes=800),
    )


def test_what_an_engine_does_not_tell_is_not_claimed() -> None:
    """One matrix of which nobody knows leaves the share open; the zeros that are stored are known."""
    weights = (*WEIGHTS, Weight("fourth", 100, 50, 400, 400, skipped=None, layout="2:4"))
    found = count_sparsity(program("first"), replace(ARTEFACT, weights=weights))
    assert found is not None
    assert found.weights_executed is None
    assert found.weights_stored == pytest.approx(1100 / 1600)
    assert (found.weights[-1].skipped, found.weights[-1].layout) == (None, "2:4")


def test_edges_are_counted_over_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """And layer by layer; weights say nothing where no pass made them sparse."""
    layers = [Layer("one", kept=50, total=100, loops=10), Layer("two", kept=25, total=100, loops=10)]
    monkeypatch.setattr(sparsity, "kept", lambda _: layers)
    found = count_sparsity(program(), ARTEFACT)
    assert found is not None
    assert found.edges == pytest.approx(1 - (50 + 25) / 200)
    assert [(layer.name, layer.kept, layer.total) for layer in found.layers] == [("one", 50, 100), ("two", 25, 100)]
    assert (found.weights_stored, found.weights_executed, found.weights) == (None, None, ())


def test_a_graph_of_loops_alone_has_no_edges_to_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is divided by zero."""
    monkeypatch.setattr(sparsity, "kept", lambda _: [Layer("one", kept=0, total=0, loops=5)])
    found = count_sparsity(program("first"), ARTEFACT)
    assert found is not None
    assert (found.edges, found.weights_stored) == (None, 0.7)


def test_a_compressed_model_tells_its_sparsity_and_what_it_could_gain(tmp_path: Path) -> None:
    """Files are smaller by what is zero, and the note that stands first says how much faster it can be at most."""
    path = write_road(tmp_path)
    torch.manual_seed(0)
    torch.save(GCN(CHANNELS, 64, num_layers=3, out_channels=CLASSES).eval(), path)
    # One set of edges: a graph so small may be stored as a dense matrix, and several would hide what weights save.
    passes = "sparsify-edges{sparsity=0.5,schedule=equal}; sparsify-weights{sparsity=0.9}"
    report = api.compress(path, passes=passes, target="ort", time_budget="20s").report
    found = report.result.sparsity
    assert found is not None
    assert found.weights_stored == pytest.approx(0.9, abs=0.01)
    assert found.edges == pytest.approx(0.5, abs=0.01)
    assert len(found.layers) == 3
    assert found.stored_bytes is not None
    assert found.dense_bytes is not None
    assert found.stored_bytes < 0.3 * found.dense_bytes
    assert report.result.size_bytes is not None
    assert report.exported.size_bytes is not None
    assert report.result.size_bytes < report.exported.size_bytes - 0.5 * found.dense_bytes
    steps = [step for step in report.steps if step.name.startswith("sparsify-")]
    assert len(steps) == 2
    for step in steps:
        (told,) = (note for note in step.notes if note.startswith("can be at most "))
        assert "% of that work is left" in told
