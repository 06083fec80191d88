"""The benchmarks start the way they are said to be started."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gnnexport.native.library import why_missing

REPOSITORY = Path(__file__).parents[2]
WHERE = {
    "aggregate": "benchmarks/aggregate.py",
    "export_vs_pytorch": "Makefile",
    "channel_pruning": "benchmarks/channel_pruning.py",
    "sparse_models": "Makefile",
    "serving_peers": "benchmarks/serving_peers.py",
    "spam_stream": "benchmarks/spam_stream.py",
}


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
    sizes = ["--nodes=2000", "--pairs=6000", "--budget=0.1", f"--output={path}"]
    command = [sys.executable, "-m", "benchmarks.export_vs_pytorch", *sizes]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    assert {"PyG CSR", "gnnexport (ort)", "gnnexport (openvino)"} <= set(rows)
    assert all(f"| {name} |" in done.stdout for name in rows)
    assert all(row["max_rel_error"] < 1e-4 for row in rows.values())


@pytest.mark.skipif(why_missing() is not None, reason=f"the kernels: {why_missing()}")
def test_every_aggregation_agrees(tmp_path: Path) -> None:
    """On a tiny graph each way to aggregate gives the numbers of our kernel; what is left out says why."""
    path = tmp_path / "figures.json"
    tiny = ["--quick", "--threads=1", "--graph=uniform", "--widths", "32", f"--output={path}"]
    command = [sys.executable, "-m", "benchmarks.aggregate", *tiny]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain, weighted, attention = json.loads(path.read_text())["tables"]
    errors = {
        (table["work"], row["name"]): row["max_rel_error"]
        for table in (plain, weighted, attention)
        for row in table["rows"]
        if row["max_rel_error"] is not None
    }
    assert {("sum", "kernel int8"), ("weighted sum", "torch CSR"), ("GAT", "PyG eager")} <= set(errors)
    assert all(error < 1e-5 for error in errors.values())
    assert all(f"{name}: left out, {reason}" in done.stdout for name, reason in plain["left_out"].items())
