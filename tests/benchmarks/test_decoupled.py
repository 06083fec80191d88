"""The benchmark of propagation over fewer edges."""

from __future__ import annotations

import pytest

from benchmarks.decoupled import KINDS, WHOLE, measure
from benchmarks.power_law import PowerLaw


@pytest.mark.parametrize("kind", KINDS)
def test_every_share_is_timed(kind: str) -> None:
    """Each share has a row; work goes with the edges that are left, and all edges change nothing."""
    graph = PowerLaw(300, 900)
    rows = measure("tiny", graph, kind, hops=2, width=4, shares=(0.5, 0.9), schedule="equal", budget_s=0.1)
    assert [row.way for row in rows] == [WHOLE, "50%", "90%"]
    assert [row.macs for row in rows] == [4 * row.edges for row in rows]
    whole, half, tenth = (row.edges for row in rows)
    loops = 2 * graph.num_nodes
    assert (half - loops, tenth - loops) == pytest.approx(((whole - loops) / 2, (whole - loops) / 10), abs=1)
    assert rows[0].change == 0
    assert all(row.p50_ms > 0 for row in rows)
