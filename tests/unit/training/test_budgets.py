from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.training.budgets import TOLERANCE, State, allocate, descent, nearest, polish, round_up


@pytest.mark.parametrize(
    ("count", "multiple", "most", "kept"),
    [(128, 8, 256, 128), (100 * 0.07, 1, 100, 7), (9.25, 1, 37, 10), (4, 8, 16, 8), (2, 8, 4, 4), (0.1, 1, 100, 1)],
)
def test_widths_round_up(count: float, multiple: int, most: int, kept: int) -> None:
    """The next multiple is kept, at least one, at most all."""
    assert round_up(count, multiple, most) == kept


def test_the_first_in_order_stay() -> None:
    """One segment keeps exactly the first units in order."""
    order = np.array([4, 2, 0, 1, 3])
    assert allocate(order, [np.arange(5)], [[0]], 3, 1).tolist() == [0, 2, 4]


def test_segments_keep_multiples_and_never_nothing() -> None:
    """A segment whose units all come last still keeps as many as a vector holds."""
    segments = [np.arange(0, 16), np.arange(16, 32)]
    kept = allocate(np.arange(32), segments, [[0], [1]], 16, 4)
    assert [int((kept < 16).sum()), int((kept >= 16).sum())] == [16, 4]


def test_tied_segments_keep_equally_many() -> None:
    """Heads keep the same number of channels, each its own best; their width together is a multiple."""
    segments = [np.arange(0, 6), np.arange(6, 12)]
    order = np.array([0, 1, 2, 3, 11, 10, 9, 8, 4, 5, 6, 7])
    assert allocate(order, segments, [[0, 1]], 6, 2).tolist() == [0, 1, 2, 9, 10, 11]
    assert len(allocate(order, segments, [[0, 1]], 6, 8)) == 8


@settings(max_examples=50)
@given(
    widths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    share=st.floats(0.01, 1),
    multiple=st.sampled_from([1, 2, 8]),
    seed=st.integers(0, 99),
)
def test_what_is_chosen_is_a_subset_of_every_segment(widths: list[int], share: float, multiple: int, seed: int) -> None:
    """At least the total is kept, each unit once; a segment keeps a multiple or all of it."""
    ends = np.cumsum(widths)
    segments = [np.arange(end - width, end) for width, end in zip(widths, ends, strict=True)]
    total = round_up(share * ends[-1], multiple, int(ends[-1]))
    order = np.random.default_rng(seed).permutation(int(ends[-1]))
    kept = allocate(order, segments, [[place] for place in range(len(widths))], total, multiple)
    assert len(kept) >= total
    assert np.array_equal(kept, np.unique(kept))
    for segment in segments:
        count = len(np.intersect1d(segment, kept))
        assert count == len(segment) or (count and count % multiple == 0)


def linear_cost(state: State) -> float:
    """Cost two groups of ten levels each: the first is thrice as dear."""
    return 3 * (10 - state[0]) + (10 - state[1])


def test_the_way_down_takes_what_loses_least_for_its_cost() -> None:
    """With equal errors the dear group shrinks first; where its error rises steeply it stays."""
    way = descent([[0.01 * level for level in range(10)]] * 2, linear_cost, lambda state: True)
    assert way[0] == (0, 0)
    assert way[9] == (9, 0)
    assert way[-1] == (9, 9)
    steep = descent([[level**2 for level in range(10)], [0.0] * 10], linear_cost, lambda state: True)
    assert steep[9] == (0, 9)


def test_the_way_down_avoids_what_is_not_allowed() -> None:
    """A group that must stay at least as wide as another shrinks only after it."""
    way = descent([[0.0] * 10, [1.0 * level for level in range(10)]], linear_cost, lambda state: state[0] <= state[1])
    assert all(first <= second for first, second in way)
    assert way[-1] == (9, 9)


@pytest.mark.parametrize("target", [0.95, 0.6, 0.31, 0.05])
def test_the_nearest_stop_is_found_in_few_looks(target: float) -> None:
    """Of falling values the nearest to the target is found by bisection."""
    values = [1 / (1 + place) for place in range(50)]
    looked: list[int] = []

    def value(place: int) -> float:
        looked.append(place)
        return values[place]

    best = min(range(50), key=lambda place: abs(values[place] - target))
    assert abs(values[nearest(value, 50, target)] - target) == abs(values[best] - target)
    assert len(set(looked)) <= 8


def test_polishing_meets_the_target_at_least_error() -> None:
    """Between two stops a group with finer steps meets the cost, in the way that loses less."""
    errors = [[0.0, 1.0, 2.0], [0.0] + [0.001 * level for level in range(1, 41)]]

    def cost(state: State) -> float:
        return 1 - 0.3 * state[0] - 0.01 * state[1]

    found = polish([(1, 0), (2, 0)], errors, cost, lambda state: True, 0.5)
    assert found[0] == 1
    assert abs(cost(found) - 0.5) <= TOLERANCE * 0.5
    assert polish([(0, 0)], errors, cost, lambda state: state == (0, 0), 0.5) == (0, 0)
