"""The benchmark of sparse weights runs, and every layout gives the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import sparse_weights
from benchmarks.sparse_weights import PATTERNS, TWO_OF_FOUR, Row, weights, wins_from
from gnnexport.native.library import why_missing

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(why_missing() is not None, reason=f"the kernels: {why_missing()}")
def test_every_layout_agrees(tmp_path: Path) -> None:
    """On tiny sizes there is a table for each pattern, with all its layouts, exact to rounding."""
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.sparse_weights", "--quick", "--threads=1", f"--output={path}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tables = json.loads(path.read_text())["tables"]
    assert [table["pattern"] for table in tables] == list(PATTERNS)
    for table in tables:
        rows = table["rows"]
        assert {row["layout"] for row in rows} == {*PATTERNS[table["pattern"]], *sparse_weights.WHOLE}
        assert all(row["max_rel_error"] < 1e-5 for row in rows)
        assert all(row["p50_ms"] > 0 for row in rows)


@pytest.mark.parametrize("share", [0.5, 0.75])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str, share: float) -> None:
    """Zeros stand as the pattern says, and are as many as asked for, but that 2:4 is half of them."""
    zero = weights(128, pattern, share) == 0
    assert zero.mean() == (0.5 if pattern == TWO_OF_FOUR else share)
    if pattern == TWO_OF_FOUR:
        assert (zero.reshape(128, 32, 4).sum(axis=2) == 2).all()
    elif "×" in pattern:
        height, breadth = map(int, pattern.split("×"))
        blocks = zero.reshape(128 // height, height, 128 // breadth, breadth).mean(axis=(1, 3))
        assert set(np.unique(blocks)) == {0.0, 1.0}


def test_wins_from() -> None:
    """It pays from the least share above which it always does, by the lower bound of the better layout."""

    def row(zeros: float | None, low: float, layout: str = "sparse") -> Row:
        return Row(layout, zeros, 1.0, low + 0.1, (low, low + 0.2), 0.0)

    some = [row(None, 1.0, "dense"), row(0.5, 1.2), row(0.75, 0.9)]
    rows = [*some, row(0.9, 0.8), row(0.9, 1.1, "blocks"), row(0.95, 2)]
    assert wins_from(rows) == 0.9
    assert wins_from(some) is None
