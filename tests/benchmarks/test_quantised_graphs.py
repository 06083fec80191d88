"""The benchmark of what a model meets for the first time runs, and keeps what is new out of training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.unseen import new_graphs, new_nodes
from gnnexport.program.data import GraphData

REPOSITORY = Path(__file__).parents[2]


def test_every_way_meets_the_target(tmp_path: Path) -> None:
    """On a few graphs each way has a row whose bits, on graphs that it never saw, are a fraction of float32's."""
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.quantised_graphs", "--quick", "--threads=1", f"--output={path}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(path.read_text())["rows"] if row["data"] == "grids"]
    assert {row["way"] for row in rows} == {"a2q", "a2q, one group", "4 bits, trained"}
    assert all(1 <= row["bits"] <= row["true_bits"] < 12 for row in rows)
    assert [row["bits"] for row in rows if row["way"] == "4 bits, trained"] == [4]


def test_graphs_asked_for_are_not_known() -> None:
    """Of each split as many graphs as asked for; no graph that is asked about is among those trained on."""
    trial = new_graphs("grids", 0, most=30)
    assert (trial.known.num_graphs, trial.asked.num_graphs) == (60, 30)
    assert {split: int(mask.sum()) for split, mask in trial.known.masks.items()} == {"train": 30, "val": 30, "test": 0}
    known = {tuple(graph) for graph in _features(trial.known)}
    assert not any(tuple(graph) in known for graph in _features(trial.asked))


def _features(data: GraphData) -> list[list[float]]:
    assert data.num_graphs is not None
    return [data.inputs["x"][data.inputs["batch"] == graph].flatten().tolist() for graph in range(data.num_graphs)]


def test_added_nodes_leave_no_edge_behind() -> None:
    """What is trained on has every edge between the nodes left and no other, with their features and no test labels."""
    edges = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 4, 4, 0], [1, 0, 2, 1, 3, 2, 4, 3, 0, 4]])
    masks = {
        "train": torch.tensor([True, False, False, False, False]),
        "val": torch.tensor([False, True, False, False, False]),
        "test": torch.tensor([False, False, True, True, True]),
    }
    x = torch.arange(5.0)[:, None]
    data = GraphData("ring", {"x": x, "edge_index": edges}, torch.arange(5), masks)
    trial = new_nodes(data, seed=0, share=0.34)
    (added,) = torch.nonzero(trial.asked.masks["test"]).flatten().tolist()
    kept = trial.known.inputs["x"][:, 0].long()
    assert kept.tolist() == [node for node in range(5) if node != added]
    assert trial.known.y is not None
    assert trial.known.y.tolist() == [0, 1, -1, -1]
    left = {(int(kept[a]), int(kept[b])) for a, b in trial.known.inputs["edge_index"].t().tolist()}
    assert left == {(a, b) for a, b in edges.t().tolist() if added not in (a, b)}
    assert trial.asked.inputs["edge_index"] is edges
