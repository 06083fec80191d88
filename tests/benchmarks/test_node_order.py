from __future__ import annotations

import pytest

from benchmarks.node_order import GIVEN, ORDERS, QUICK, measure
from gnnexport.native.library import why_missing


@pytest.mark.skipif(why_missing() is not None, reason=f"the kernels: {why_missing()}")
@pytest.mark.parametrize("name", QUICK)
def test_every_order_is_timed(name: str) -> None:
    """Each order has a row, and none changes a bit of the sums."""
    rows = measure(QUICK[name], name, width=8, budget_s=0.1)
    assert [row.order for row in rows] == [GIVEN, *ORDERS]
    assert all(row.p50_ms > 0 for row in rows)
