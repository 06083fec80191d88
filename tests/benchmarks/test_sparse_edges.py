"""The benchmark of fewer edges runs, and tells honest figures from those of the published protocol."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sparse_edges import MODELS, build, made_up

REPOSITORY = Path(__file__).parents[2]


def test_every_share_has_both_figures(tmp_path: Path) -> None:
    """Each model and share has a row; with all edges gone loops are what is left to sum over, if there are any."""
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.sparse_edges", "--quick", "--threads=1", f"--output={path}"]
    models = ["--models", "GCN", "GraphSAGE"]
    done = subprocess.run([*command, *models], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert {(row["model"], row["sparsity"]) for row in rows} == {
        (model, share) for model in ("GCN", "GraphSAGE") for share in (0.5, 1.0)
    }
    assert all(row["macs_aggregation"] < 1 for row in rows)
    assert [row["gone"] == 1 for row in rows if row["sparsity"] == 1] == [False, True]
    assert "published protocol | without a graph" in done.stdout
    assert len({row["graphless"] for row in rows if row["model"] == "GCN"}) == 1


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_built(name: str) -> None:
    """Each answers for every node of a graph."""
    data = made_up()
    assert build(name, data, 0)(**data.inputs).shape == (120, 3)
