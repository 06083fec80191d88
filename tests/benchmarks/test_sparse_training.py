"""The benchmark of sparse training runs, and counts what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.real_data import find, reason

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["cora", "temporal_collegemsg"])
def test_every_method_has_a_row(name: str, tmp_path: Path) -> None:
    """In as many epochs each method reaches its sparsity, and sparse training takes the fewest operations."""
    if find(name) is None:
        pytest.skip(reason(name))
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.sparse_training", "--quick", "--threads=1", f"--output={path}"]
    done = subprocess.run([*command, "--data", name], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(path.read_text())["rows"]}
    assert set(rows) == {"dense", "magnitude", "gradual", "slr", "admm", "rigl", "set"}
    assert all(row["zeros"] >= 0.89 for name, row in rows.items() if name != "dense")
    assert {row["dense_flops"] for row in rows.values()} == {rows["dense"]["flops"]}
    assert rows["set"]["flops"] < rows["rigl"]["flops"] < rows["magnitude"]["flops"] < rows["dense"]["flops"]
    assert rows["admm"]["flops"] > rows["magnitude"]["flops"]
    assert all(0 <= row["test"] <= 1 for row in rows.values())
