"""Constant edge weights as row scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnnexport.targets.onnx.factors import LARGEST, TOLERANCE, factorise


def edges(num_nodes: int, num_edges: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw destinations in order and sources, with self-loops on every other node and duplicates."""
    random = np.random.default_rng(seed)
    row = np.concatenate([random.integers(0, num_nodes, num_edges), np.arange(0, num_nodes, 2)])
    col = np.concatenate([random.integers(0, num_nodes, num_edges), np.arange(0, num_nodes, 2)])
    order = np.argsort(row, kind="stable")
    return row[order], col[order]


@given(num_nodes=st.integers(1, 30), num_edges=st.integers(0, 60), seed=st.integers(0, 99))
def test_products_are_found(num_nodes: int, num_edges: int, seed: int) -> None:
    """Whatever the graph, weights that are a product are told apart again, exact to float32."""
    row, col = edges(num_nodes, num_edges, seed)
    random = np.random.default_rng(seed)
    a, b = random.uniform(0.1, 1, num_nodes), random.uniform(0.1, 1, num_nodes)
    weight = (a[row] * b[col]).astype(np.float32)
    found = factorise(row, col, weight, num_nodes, num_nodes)
    assert found is not None
    np.testing.assert_allclose(found[0][row] * found[1][col], weight, rtol=TOLERANCE)


def test_other_weights_are_left_alone() -> None:
    """Weights that are no product stay edge weights."""
    row, col = edges(20, 200, 0)
    weight = np.random.default_rng(1).uniform(0.1, 1, len(row)).astype(np.float32)
    assert factorise(row, col, weight, 20, 20) is None


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_weights_that_are_not_positive_are_left_alone(bad: float) -> None:
    """A product has no logarithm there."""
    row, col = edges(5, 10, 0)
    weight = np.ones(len(row), np.float32)
    weight[0] = bad
    assert factorise(row, col, weight, 5, 5) is None


def test_factors_stay_within_range() -> None:
    """Any weights on a path factorise, but not into numbers that would overflow."""
    size = 5000
    row, col = np.arange(1, size), np.arange(size - 1)
    row, col = np.append(row, col), np.append(col, row)
    weight = np.random.default_rng(0).uniform(0.1, 1, len(row)).astype(np.float32)
    found = factorise(row, col, weight, size, size)
    assert found is None or max(*(np.abs(np.log(part)).max() for part in found)) <= np.log(LARGEST)


def test_equal_weights_scale_only_the_result() -> None:
    """One number for all edges is one number for all rows."""
    row, col = edges(6, 9, 2)
    found = factorise(row, col, np.full(len(row), 0.25, np.float32), 6, 6)
    assert found is not None
    assert (found[0] == 0.25).all()
    assert (found[1] == 1).all()


def test_no_edges() -> None:
    """Nothing to scale."""
    none = np.zeros(0, np.int64)
    assert factorise(none, none, np.zeros(0, np.float32), 3, 3) is None
