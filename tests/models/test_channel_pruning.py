"""Real graphs: half of the hidden channels go, and the accuracy stays."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from benchmarks.channel_pruning import HIDDEN, Row, run_seed
from benchmarks.real_data import find, reason, require

GRAPHS = ("cora", "amazon_computers")
MODELS = ("GCN", "GraphSAGE")
SEEDS = 5
KEEP = 0.5
MOST_DROP_PP = 0.5

pytestmark = pytest.mark.slow


def linear_share(row: Row) -> float:
    """Return the share of the multiply-accumulates of linear layers that is left."""
    return row.macs_linear_after / row.macs_linear_before


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", MODELS)
def test_half_of_the_channels_are_not_missed(name: str, graph: str) -> None:
    """Over five seeds the mean drop is at most half a point, and two layers do half of the linear work."""
    if find(graph) is None:
        pytest.skip(reason(graph))
    rows = [run_seed(graph, name, layers=2, seed=seed, keep=KEEP) for seed in range(SEEDS)]
    assert [linear_share(row) for row in rows] == [KEEP] * SEEDS
    assert statistics.mean(row.drop_pp for row in rows) <= MOST_DROP_PP


@pytest.mark.parametrize("name", MODELS)
def test_layers_between_hidden_ones_shrink_on_both_sides(name: str) -> None:
    """With three layers the one in the middle keeps a quarter of its work."""
    if find("cora") is None:
        pytest.skip(reason("cora"))
    row = run_seed("cora", name, layers=3, seed=0, keep=KEEP)
    arrays = np.load(require("cora"))
    outer = int(arrays["x_shape"][1] if "x_shape" in arrays else arrays["x"].shape[1]) + int(arrays["y"].max()) + 1
    expected = (outer * KEEP + HIDDEN * KEEP**2) / (outer + HIDDEN)
    assert linear_share(row) == pytest.approx(expected)
