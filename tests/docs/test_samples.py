from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gnnexport import api
from gnnexport.bundle.reader import open_bundle
from tests.docs.documents import REPOSITORY

TRAIN = REPOSITORY / "samples" / "digits" / "train.py"
GRIDS = REPOSITORY / "samples" / "grids" / "train.py"


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    """The names of the training script."""
    return runpy.run_path(str(TRAIN))


def test_the_graph_is_fit_for_training(digits: dict[str, Any]) -> None:
    """Every digit is a node with a label and one split, joined both ways to at least its nearest."""
    graph = digits["digits_graph"](seed=0)
    source, destination = graph["edge_index"]
    assert graph["x"].shape == (1797, 64)
    assert graph["x"].dtype == np.float32
    assert (sum(graph[f"{split}_mask"].astype(int) for split in ("train", "val", "test")) == 1).all()
    assert np.bincount(destination, minlength=1797).min() >= digits["NEIGHBOURS"]
    assert (source != destination).all()
    edges = set(zip(source.tolist(), destination.tolist(), strict=True))
    assert len(edges) == len(source)
    assert {(b, a) for a, b in edges} == edges


@pytest.mark.parametrize("name", ["gcn", "sage"])
def test_training_repeats_itself(digits: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same weights."""
    monkeypatch.setitem(digits["train"].__globals__, "EPOCHS", 2)
    graph = digits["digits_graph"](seed=0)
    first, second = (digits["train"](name, graph, 0)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_script_writes_what_compress_reads(tmp_path: Path) -> None:
    """The script leaves a model, its data and a sidecar, and says how good the model is."""
    command = [sys.executable, str(TRAIN), "gcn", str(tmp_path / "gcn")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {path.name for path in (tmp_path / "gcn").iterdir()} == {"model.pt", "data.npz", "gnnexport.toml"}
    assert float(done.stdout.split()[-1]) > 0.95


@pytest.fixture(scope="module")
def grids() -> dict[str, Any]:
    """The names of the script that draws digits as graphs."""
    return runpy.run_path(str(GRIDS))


def test_a_grid_joins_the_inked_pixels_around_each_other(grids: dict[str, Any]) -> None:
    """A node for each pixel with ink, its place in its features, and edges both ways to the neighbours."""
    image = np.zeros((8, 8))
    image[0, 0], image[1, 1], image[7, 7], image[1, 3] = 16, 8, 4, 2
    graph = grids["grid"](image, 5)
    assert graph.x.tolist() == [[1, 0, 0], [0.5, pytest.approx(1 / 7), pytest.approx(1 / 7)],
        [0.125, pytest.approx(1 / 7), pytest.approx(3 / 7)], [0.25, 1, 1]]  # fmt: skip
    assert sorted(map(tuple, graph.edge_index.T.tolist())) == [(0, 1), (1, 0)]
    assert graph.y.tolist() == [5]


def test_grids_differ_in_size_and_split_without_overlap(grids: dict[str, Any]) -> None:
    """Every digit is in one split, and the graphs are of many sizes."""
    parts = grids["grids"](seed=0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 1079, "val": 359, "test": 359}
    assert len({graph.num_nodes for graph in parts["test"]}) > 10
    assert len({id(graph) for part in parts.values() for graph in part}) == 1797


def test_the_grids_go_through_without_trust(
    grids: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the script writes loads safely, and is compressed for graphs of any size."""
    monkeypatch.setitem(grids["train"].__globals__, "EPOCHS", 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep theirs
    monkeypatch.setattr(sys, "argv", ["train.py", str(tmp_path)])
    grids["main"]()
    outcome = api.compress(tmp_path / "model.pt", max_drop="100pp", time_budget="4s")
    assert outcome.exit_code == 0
    report = outcome.report.to_dict()
    assert open_bundle(outcome.bundle).manifest.mode == "graphs"
    assert report["result"]["metric"]["n"] == 359
    assert report["result"]["parameters"] < report["baseline"]["parameters"]


@pytest.mark.parametrize("sample", ["links", "molecules"])
def test_a_sample_says_what_data_it_lacks(sample: str, tmp_path: Path) -> None:
    """Without its data a sample ends with the path it looked at, and writes nothing."""
    script = REPOSITORY / "samples" / sample / "train.py"
    command = [sys.executable, str(script), str(tmp_path / "none.npz"), str(tmp_path / "made")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path / 'none.npz'} is absent. Give the .npz of a")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("sample", "function"), [("links", "read_graph"), ("molecules", "read_set")])
@pytest.mark.parametrize("lacking", ["x", "x_indptr", "edge_index"])
def test_a_sample_says_which_array_it_lacks(sample: str, function: str, lacking: str, tmp_path: Path) -> None:
    """A file without an array ends the program with the array's name, whichever form the features have."""
    script = runpy.run_path(str(REPOSITORY / "samples" / sample / "train.py"))
    features = ("x",) if lacking == "x" else ("x_data", "x_indices", "x_indptr", "x_shape")
    names = {"edge_index", *script.get("SET", ()), *features} - {lacking}
    np.savez(tmp_path / "some.npz", **dict.fromkeys(names, np.zeros(1)))
    with pytest.raises(SystemExit, match=f"some.npz has no {lacking}\\. Give the .npz of a "):
        script[function](tmp_path / "some.npz")


def test_a_set_of_molecules_is_written_as_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file beside the weights holds the arrays of the set and nothing else."""
    script = runpy.run_path(str(REPOSITORY / "samples" / "molecules" / "train.py"))
    values = script["main"].__globals__
    monkeypatch.setitem(values, "train", lambda arrays, seed, epochs: (torch.nn.Linear(1, 1), 0.5))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep theirs
    np.savez(tmp_path / "set.npz", **dict.fromkeys((*script["SET"], "x"), np.zeros((3, 2), np.float32)))
    monkeypatch.setattr(sys, "argv", ["train.py", str(tmp_path / "set.npz"), str(tmp_path / "made")])
    written: dict[str, Any] = {}
    monkeypatch.setattr(np, "savez_compressed", lambda path, allow_pickle, **arrays: written.update(arrays))
    script["main"]()
    assert set(written) == {*script["SET"], "x"}
