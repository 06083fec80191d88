"""The benchmarks start the way they are said to be started."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
WHERE = {"export_vs_pytorch": "Makefile", "channel_pruning": "benchmarks/channel_pruning.py"}


@pytest.mark.parametrize("name", WHERE)
def test_a_benchmark_starts_as_written(name: str) -> None:
    """The command in the Makefile, or in the file's first lines, finds what it imports."""
    found = re.search(rf"python (.*{name}\S*)", (REPOSITORY / WHERE[name]).read_text())
    assert found is not None
    command = [sys.executable, *found[1].split(), "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_every_contender_runs_and_agrees(tmp_path: Path) -> None:
    """On a small graph the table has a row for each way to run the model, ours on both engines, all exact."""
    path = tmp_path / "figures.json"
    sizes = ["--nodes=2000", "--pairs=6000", "--budget=1", f"--output={path}"]
    command = [sys.executable, "-m", "benchmarks.export_vs_pytorch", *sizes]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    assert {"PyG CSR", "gnnexport (ort)", "gnnexport (openvino)"} <= set(rows)
    assert all(f"| {name} |" in done.stdout for name in rows)
    assert all(row["max_rel_error"] < 1e-4 for row in rows.values())
