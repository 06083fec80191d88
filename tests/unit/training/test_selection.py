from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gnnexport.training.selection import Readers, refit, select_channels

Matrix = NDArray[np.float64]


def planted(seed: int, used: list[int], size: int = 20) -> Readers:
    """Make two branches whose result rests on a few channels; all others have tiny weights."""
    rng = np.random.default_rng(seed)
    weights = [1e-3 * rng.normal(size=(5, size)) for _ in range(2)]
    for weight in weights:
        weight[:, used] = rng.normal(size=(5, len(used)))
    hidden = rng.normal(size=(200, size))
    return Readers([hidden, 0.5 * hidden + 0.5 * rng.permutation(hidden)], weights)


def error(readers: Readers, kept: NDArray[np.int64], weights: list[Matrix]) -> float:
    """Return the squared error of the sum over the kept channels."""
    actual = sum(rows[:, kept] @ weight.T for rows, weight in zip(readers.inputs, weights, strict=True))
    return float(np.square(actual - readers.target()).sum())


@pytest.mark.parametrize("seed", range(5))
def test_planted_channels_are_found(seed: int) -> None:
    """LASSO takes up exactly the channels that the result rests on."""
    used = sorted(np.random.default_rng(seed).choice(20, 6, replace=False).tolist())
    assert select_channels([planted(seed, used)], 6).tolist() == used


def test_redundant_channels_are_not_both_kept() -> None:
    """Of two equal channels one is enough, however large their weights."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 6))
    rows[:, 1] = rows[:, 0]
    weight = rng.normal(size=(4, 6))
    weight[:, :2] *= 10
    readers = Readers([rows], [weight])
    kept = select_channels([readers], 5)
    assert len({0, 1} & set(kept.tolist())) >= 1
    assert error(readers, kept, refit(readers, kept)) < 0.2 * float(np.square(readers.target()).sum())


def test_several_sums_share_one_choice() -> None:
    """Channels that either of two sums needs are kept."""
    kept = select_channels([planted(0, [1, 2]), planted(1, [7, 8])], 4)
    assert kept.tolist() == [1, 2, 7, 8]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 12))
def test_refit_is_never_worse_than_thresholding(seed: int, count: int) -> None:
    """Least squares on the kept channels has an error no larger than the old weights on them."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(40, 12)) @ rng.normal(size=(12, 12))
    readers = Readers([mixed, rng.normal(size=(40, 12))], [rng.normal(size=(3, 12)) for _ in range(2)])
    kept = select_channels([readers], count)
    before = error(readers, kept, [weight[:, kept] for weight in readers.weights])
    assert error(readers, kept, refit(readers, kept)) <= before * (1 + 1e-9) + 1e-9


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 12))
def test_choice_is_a_sorted_subset(seed: int, count: int) -> None:
    """As many channels as asked for come back, each once, ascending."""
    rng = np.random.default_rng(seed)
    rows = np.maximum(rng.normal(size=(30, 12)), 0) * (rng.random(12) > 0.4)
    kept = select_channels([Readers([rows], [rng.normal(size=(4, 12))])], count)
    assert len(kept) == count
    assert np.array_equal(kept, np.unique(kept))


def test_dead_channels_go_first_and_keep_their_weights() -> None:
    """A channel that is never active is not chosen before one that is; refitted, it keeps its old weight."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 6))
    rows[:, [1, 4]] = 0
    weight = rng.normal(size=(3, 6))
    readers = Readers([rows], [weight])
    assert select_channels([readers], 4).tolist() == [0, 2, 3, 5]
    everything = np.arange(6)
    np.testing.assert_allclose(refit(readers, everything)[0], weight, atol=1e-9)


def test_nothing_active_still_gives_a_choice() -> None:
    """Features of zeros make a choice arbitrary, not an error."""
    readers = Readers([np.zeros((10, 5))], [np.ones((2, 5))])
    kept = select_channels([readers], 2)
    assert len(kept) == 2
    np.testing.assert_allclose(refit(readers, kept)[0], np.ones((2, 2)))


def test_gram_is_that_of_contributions() -> None:
    """The Gram matrix equals the one of each channel's contribution, written out."""
    rng = np.random.default_rng(3)
    readers = Readers([rng.normal(size=(7, 4)) for _ in range(2)], [rng.normal(size=(3, 4)) for _ in range(2)])
    pairs = list(zip(readers.inputs, readers.weights, strict=True))
    each = [sum(np.outer(rows[:, c], weight[:, c]) for rows, weight in pairs) for c in range(4)]
    contributions = np.stack(each).reshape(4, -1)
    np.testing.assert_allclose(readers.gram(), contributions @ contributions.T)
