from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.docs.documents import REPOSITORY

TRAIN = REPOSITORY / "samples" / "digits" / "train.py"


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
