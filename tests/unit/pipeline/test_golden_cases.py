from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.nn import GCN

from gnnexport.bundle.features import Features
from gnnexport.bundle.golden import LIMIT_BYTES, GoldenCase, write_golden
from gnnexport.errors import ParityError
from gnnexport.frontends.sidecar import read_sidecar
from gnnexport.pipeline.golden_cases import golden_cases
from gnnexport.pipeline.model_answers import check_capture
from gnnexport.pipeline.run import simplify
from gnnexport.pipeline.source import Given, Source, load_source
from gnnexport.program.data import GraphData
from tests.road import CLASSES, NODES, Arrays, write_road

MODEL = """
import torch
from torch_geometric.nn import GCNConv

class Cancels(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GCNConv(6, 3)

    def forward(self, x, edge_index):
        return (self.conv(x, edge_index) + 1e5) - 1e5

class Links(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GCNConv(6, 3)

    def forward(self, x, edge_index, edge_label_index):
        h = self.conv(x, edge_index)
        return (h[edge_label_index[0]] * h[edge_label_index[1]]).sum(-1)

class Single(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GCNConv(6, 3)

    def forward(self, x, edge_index):
        return self.conv(x, edge_index) @ torch.ones(3, 3, dtype=torch.float32)

class Sorted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GCNConv(6, 3)

    def forward(self, x, edge_index):
        if not torch.compiler.is_exporting() and (edge_index[1].diff() < 0).any():
            raise ValueError("sort the edges")
        return self.conv(x, edge_index)

class WithoutLoops(torch.nn.Module):
    def forward(self, x, edge_index):
        messages = x[edge_index[0]]
        if torch.compiler.is_exporting():
            messages = messages * (edge_index[0] != edge_index[1]).float()[:, None]
        return torch.zeros_like(x).index_add(0, edge_index[1], messages)

class Pretends(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(6, 3)
        self.conv = WithoutLoops()
        self.last = torch.nn.Linear(3, 3)

    def forward(self, x, edge_index):
        return self.last(self.conv(self.first(x), edge_index))
"""


def cases_of(
    model: Path, mode: str, *, with_real: bool = True, builder: str | None = None
) -> tuple[Source, list[GoldenCase], list[str]]:
    """Load a model and make its golden cases; also returns what was noted."""
    source = load_source(Given(model, mode=mode, builder=builder), read_sidecar(model))
    notes: list[str] = []
    cases = golden_cases(source, simplify(source).program, notes.append, with_real=with_real, seed=0)
    return source, cases, notes


def built(folder: Path, name: str) -> str:
    """Write the weights of a class of `MODEL` in place of the road's model; return its builder."""
    (folder / "made.py").write_text(MODEL)
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(MODEL, scope)
    torch.manual_seed(0)
    torch.save(scope[name]().state_dict(), folder / "model.pt")
    return f"{folder / 'made.py'}:{name}"


@pytest.mark.parametrize("with_real", [True, False])
def test_the_first_case_is_the_request_that_is_timed(tmp_path: Path, with_real: bool) -> None:
    """Where features may not be kept, they are made up, and the graph stays: `validate` times the same sizes."""
    source, cases, notes = cases_of(write_road(tmp_path), "graphs", with_real=with_real)
    first = cases[0].feeds()
    assert first["x"].shape == source.request.inputs["x"].shape
    assert np.array_equal(first["edge_index"], source.request.inputs["edge_index"].numpy())
    assert np.array_equal(first["x"], source.request.inputs["x"].numpy()) == with_real
    assert any("made-up features" in note for note in notes) != with_real


def test_without_data_the_timed_request_is_kept(tmp_path: Path) -> None:
    """The made-up graphs that are timed are the first golden case."""
    torch.save(GCN(6, 8, 1, CLASSES), tmp_path / "model.pt")
    source, cases, _ = cases_of(tmp_path / "model.pt", "graphs")
    assert np.array_equal(cases[0].feeds()["x"], source.request.inputs["x"].numpy())


def test_wide_features_fit_into_a_bundle(tmp_path: Path) -> None:
    """5000 channels of noise, for a thousand nodes, would take more than a golden file may."""

    def widen(arrays: Arrays) -> Arrays:
        return {**arrays, "x": np.random.default_rng(0).normal(size=(NODES, 5000)).astype(np.float32)}

    model = write_road(tmp_path)
    np.savez(tmp_path / "data.npz", allow_pickle=False, **widen(dict(np.load(tmp_path / "data.npz"))))
    torch.save(GCN(5000, 4, 1, CLASSES), model)
    _, cases, _ = cases_of(model, "graphs")
    write_golden(tmp_path / "golden.npz", cases)
    assert (tmp_path / "golden.npz").stat().st_size < LIMIT_BYTES / 2


def test_made_up_features_have_the_magnitude_of_the_data(tmp_path: Path) -> None:
    """Noise of another magnitude asks a model what it was never trained for."""

    def enlarge(arrays: Arrays) -> Arrays:
        return {**arrays, "x": arrays["x"] * 1000}

    _, cases, _ = cases_of(write_road(tmp_path, enlarge), "graphs")
    made = [value for case in cases for value in case.inputs.values() if isinstance(value, Features)]
    assert made
    assert all(500 < recipe.scale < 5000 for recipe in made)


def test_cases_that_float32_cannot_represent_are_left_out(tmp_path: Path) -> None:
    """A correct artefact would fail on them; each one left out is told, and the real request stays."""
    model = write_road(tmp_path)
    _, cases, notes = cases_of(model, "graphs", builder=built(tmp_path, "Cancels"))
    assert [case.name for case in cases] == ["request"]
    assert any("'fifty graphs' left out: float32 itself is off by" in note for note in notes)


def test_of_many_pairs_those_that_are_timed_are_kept(tmp_path: Path) -> None:
    """A graph with more pairs than a bundle keeps is timed on those it keeps, in every form and on every machine."""

    def pair(arrays: Arrays) -> Arrays:
        random = np.random.default_rng(0)
        kept = {name: arrays[name] for name in ("x", "edge_index")}
        return {**kept, "edge_label_index": random.integers(0, NODES, (2, 5000)).astype(np.int64)}

    model = write_road(tmp_path, pair)
    (tmp_path / "gnnexport.toml").write_text('schema = 1\n[data]\npath = "data.npz"\n')
    source, cases, _ = cases_of(model, "full", builder=built(tmp_path, "Links"))
    assert source.request.inputs["edge_label_index"].shape == (2, 4096)
    assert source.request_logits.shape == (4096,)
    for case in cases:
        asked = case.feeds()["edge_label_index"]
        assert np.array_equal(asked, source.request.inputs["edge_label_index"].numpy())


def test_labels_stay_with_their_pairs() -> None:
    """Labels and masks of a request are those of its pairs; a request that is small enough is the data itself."""
    from gnnexport.pipeline.typical import MOST_PAIRS, typical_request

    count = MOST_PAIRS + 10
    pairs = torch.arange(count).repeat(2, 1)
    inputs = {"x": torch.zeros(count, 1), "edge_index": torch.zeros(2, 0, dtype=torch.int64)}
    y, masks = torch.arange(count), {"test": torch.arange(count) % 2 == 0}
    data = GraphData("pairs", {**inputs, "edge_label_index": pairs}, y, masks, level="pair")
    request = typical_request(data, "full")
    assert request.y is not None
    assert torch.equal(request.y, request.inputs["edge_label_index"][0])
    assert torch.equal(request.masks["test"], request.y % 2 == 0)
    assert typical_request(request, "full") is request


def test_a_capture_that_is_right_for_the_data_alone(tmp_path: Path) -> None:
    """What the model does otherwise while it is captured shows on made-up graphs, and in the module that does it."""
    model = write_road(tmp_path)
    builder = built(tmp_path, "Pretends")
    with pytest.raises(
        ParityError, match=r"on the graph 'fifty graphs'; outputs first diverge in conv \(WithoutLoops\)"
    ):
        cases_of(model, "graphs", builder=builder)


def test_a_capture_with_a_row_too_many(tmp_path: Path) -> None:
    """Only answers for graphs may have more rows than the model gives: it may not see empty graphs at the end."""
    model = write_road(tmp_path)
    source = load_source(Given(model, mode="graphs"), read_sidecar(model))
    inputs, answer = source.request.inputs, source.request_logits
    longer = torch.cat([answer, answer[:1]])
    check_capture(replace(source, level="graph"), "request", inputs, (NODES,), answer, longer)
    with pytest.raises(ParityError, match="differs from the model by inf"):
        check_capture(source, "request", inputs, (NODES,), answer, longer)


def test_a_model_that_computes_in_float32_whatever_it_is_given(tmp_path: Path) -> None:
    """Nothing can be told of its rounding, so that no case is left out for that."""
    _, cases, notes = cases_of(write_road(tmp_path), "graphs", builder=built(tmp_path, "Single"))
    assert "mixed graphs" in {case.name for case in cases}
    assert not any("left out" in note for note in notes)


def test_a_model_that_wants_sorted_edges_gets_them(tmp_path: Path) -> None:
    """Made-up edges are sorted by destination where the model refuses any others, with all that belongs to them."""

    def sort(arrays: Arrays) -> Arrays:
        order = np.argsort(arrays["edge_index"][1], kind="stable")
        return {**arrays, "edge_index": arrays["edge_index"][:, order]}

    _, cases, notes = cases_of(write_road(tmp_path, sort), "graphs", builder=built(tmp_path, "Sorted"))
    assert all((np.diff(case.feeds()["edge_index"][1]) >= 0).all() for case in cases)
    assert "permuted edges" in {case.name for case in cases}
    assert not any("left out" in note for note in notes)
