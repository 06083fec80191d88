"""The benchmark of quantised message passing runs, and every way gives the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gnnexport.native.library import why_missing

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(why_missing() is not None, reason=f"the kernels: {why_missing()}")
def test_every_way_agrees(tmp_path: Path) -> None:
    """On a tiny graph sums of levels are those of floats, and layers of levels differ by their rounding alone."""
    path = tmp_path / "figures.json"
    tiny = ["--quick", "--threads=1", "--graph=power-law", "--widths", "33", f"--output={path}"]
    command = [sys.executable, "-m", "benchmarks.quantized", *tiny]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sums, layers = json.loads(path.read_text())["tables"]
    errors = {row["name"]: row["max_rel_error"] for row in sums["rows"]}
    assert {"float32", "8 bits", "4 bits", "4 bits, into 4 bits"} <= set(errors)
    assert all(error < 1e-6 for name, error in errors.items() if "into" not in name)
    errors = {row["name"]: row["max_rel_error"] for row in layers["rows"]}
    assert errors["4 bits"] < 1e-5
    assert errors["4 bits, integer product"] == errors["8 bits, integer product"] < 0.2
