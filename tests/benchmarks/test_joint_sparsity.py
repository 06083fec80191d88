"""The benchmark of edges and weights pruned together runs, and chooses by validation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.joint_sparsity import Row, summary

REPOSITORY = Path(__file__).parents[2]


def test_both_are_pruned(tmp_path: Path) -> None:
    """A row has the share of zeros that was asked for."""
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.joint_sparsity", "--quick", "--threads=1", f"--output={path}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["edges"], row["weights"]) == (0.5, 0.9)
    assert abs(row["zeros"] - 0.9) < 0.01


def test_the_test_has_no_say() -> None:
    """The setting that leaves least is chosen among those whose drop on validation nodes is allowed."""

    def row(weights: float, test: float, validation: float) -> Row:
        return Row("graph", "GCN", 0, "norm", 1.0, 0.5, weights, weights, 0.9, 0.9, test, 0.9, validation)

    lines = summary([row(0.75, 0.5, 0.895), row(0.9, 0.5, 0.895), row(0.95, 0.9, 0.5)], allowed=1.0).splitlines()
    assert ["chosen" in line for line in lines[2:]] == [False, True, False]
