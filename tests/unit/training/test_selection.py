from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gnnexport.training.selection import (
    Ranking,
    Readers,
    conjugate_gradients,
    cross_moments,
    descend,
    refit,
)

Matrix = NDArray[np.float64]


def select_channels(groups: list[Readers], count: int) -> NDArray[np.int64]:
    """Return the channels that the LASSO path takes up for several sums, ascending."""
    gram = np.sum([group.gram() for group in groups], axis=0)
    return np.sort(Ranking(gram, "lasso", np.zeros(len(gram)), 0).order(count)[:count])


def planted(seed: int, used: list[int], size: int = 20) -> Readers:
    """Make two branches whose result rests on a few channels; all others have tiny weights."""
    rng = np.random.default_rng(seed)
    weights = [1e-3 * rng.normal(size=(5, size)) for _ in range(2)]
    for weight in weights:
        weight[:, used] = rng.normal(size=(5, len(used)))
    hidden = rng.normal(size=(200, size))
    return Readers([hidden, 0.5 * hidden + 0.5 * rng.permutation(hidden)], weights)


def target(readers: Readers) -> Matrix:
    """Return the sum of the unpruned results."""
    return np.sum([rows @ weight.T for rows, weight in zip(readers.inputs, readers.weights, strict=True)], axis=0)


def refitted(readers: Readers, kept: NDArray[np.int64]) -> list[Matrix]:
    """Refit on what is kept."""
    start = [weight[:, kept] for weight in readers.weights]
    return refit([rows[:, kept] for rows in readers.inputs], start, target(readers))


def error(readers: Readers, kept: NDArray[np.int64], weights: list[Matrix]) -> float:
    """Return the squared error of the sum over the kept channels."""
    actual = sum(rows[:, kept] @ weight.T for rows, weight in zip(readers.inputs, weights, strict=True))
    return float(np.square(actual - target(readers)).sum())


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
    assert error(readers, kept, refitted(readers, kept)) < 0.2 * float(np.square(target(readers)).sum())


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
    assert error(readers, kept, refitted(readers, kept)) <= before * (1 + 1e-9) + 1e-9


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
    np.testing.assert_allclose(refitted(readers, everything)[0], weight, atol=1e-9)


def test_nothing_active_still_gives_a_choice() -> None:
    """Features of zeros make a choice arbitrary, not an error."""
    readers = Readers([np.zeros((10, 5))], [np.ones((2, 5))])
    kept = select_channels([readers], 2)
    assert len(kept) == 2
    np.testing.assert_allclose(refitted(readers, kept)[0], np.ones((2, 2)))


def test_gram_is_that_of_contributions() -> None:
    """The Gram matrix equals the one of each channel's contribution, written out."""
    rng = np.random.default_rng(3)
    readers = Readers([rng.normal(size=(7, 4)) for _ in range(2)], [rng.normal(size=(3, 4)) for _ in range(2)])
    pairs = list(zip(readers.inputs, readers.weights, strict=True))
    each = [sum(np.outer(rows[:, c], weight[:, c]) for rows, weight in pairs) for c in range(4)]
    contributions = np.stack(each).reshape(4, -1)
    np.testing.assert_allclose(readers.gram(), contributions @ contributions.T)


def test_columns_of_one_unit_share_a_coefficient() -> None:
    """A unit read by several columns contributes the sum of theirs; columns of no unit take no part."""
    rng = np.random.default_rng(4)
    rows, weight = rng.normal(size=(9, 5)), rng.normal(size=(3, 5))
    gram = Readers([rows], [weight], [np.array([0, 1, 0, -1, 1])]).gram(2)
    each = [np.outer(rows[:, c], weight[:, c]) for c in range(5)]
    contributions = np.stack([each[0] + each[2], each[1] + each[4]]).reshape(2, -1)
    np.testing.assert_allclose(gram, contributions @ contributions.T)


def test_new_weights_keep_the_products_of_what_is_read() -> None:
    """The Gram matrix after a change of weights is that of readers made anew, and the rows are not read again."""
    rng = np.random.default_rng(5)
    rows = [rng.normal(size=(7, 4)) for _ in range(2)]
    first = Readers(rows, [rng.normal(size=(3, 4)) for _ in range(2)])
    moments = first.moments
    weights = [rng.normal(size=(2, 4)) for _ in range(2)]
    twin = first.reweighted(weights)
    assert twin.moments is moments
    np.testing.assert_allclose(twin.gram(), Readers(rows, weights).gram())


@pytest.mark.parametrize("count", [3, 10, 25])
def test_coordinate_descent_finds_what_the_path_does(count: int) -> None:
    """Solved for one strength at a time, the LASSO takes up nearly the units that its path does."""
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(200, 40)) @ rng.normal(size=(40, 40))
    gram = Readers([rows], [rng.normal(size=(6, 40))]).gram()
    ranking = Ranking(gram, "lasso", np.zeros(40), 0)
    path = set(ranking.order(count)[:count].tolist())
    found = np.abs(descend(ranking.gram, count))
    assert (found > 0).sum() >= count
    assert len(path & set(np.argsort(-found)[:count].tolist())) >= 0.8 * count


def test_ways_to_choose_differ() -> None:
    """Magnitude goes by the weights, random by the seed, and neither looks at what is read."""
    gram = np.diag([1.0, 5.0, 3.0, 2.0])
    magnitudes = np.array([4.0, 1.0, 2.0, 3.0])
    assert Ranking(gram, "lasso", magnitudes, 0).order(2)[:2].tolist() == [1, 2]
    assert Ranking(gram, "magnitude", magnitudes, 0).order(2).tolist() == [0, 3, 2, 1]
    drawn = [Ranking(gram, "random", magnitudes, seed).order(2).tolist() for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(map(tuple, drawn))) > 1


def test_error_is_the_share_of_squares_lost() -> None:
    """With everything kept nothing is lost, with nothing of value kept all is; more units never lose more."""
    ranking = Ranking(planted(2, [1, 2, 3]).gram(), "lasso", np.zeros(20), 0)
    assert ranking.error(np.arange(20)) == pytest.approx(0, abs=1e-6)
    errors = [ranking.error(ranking.order(count)[:count]) for count in range(1, 6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 1e-3 < errors[0] < 1


def test_products_in_chunks_equal_the_whole() -> None:
    """Rows are taken in pieces; the sum of their products is that of all."""
    rng = np.random.default_rng(6)
    one, other = rng.normal(size=(20_000, 3)).astype(np.float32), rng.normal(size=(20_000, 2))
    np.testing.assert_allclose(cross_moments(one, other), one.astype(np.float64).T @ other)


def test_near_solution_is_near() -> None:
    """A few products bring a symmetric system close to its solution, and one of zeros is left at its start."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(300, 30))
    matrix, right = rows.T @ rows, rng.normal(size=30)
    exact = np.linalg.solve(matrix, right)
    np.testing.assert_allclose(conjugate_gradients(matrix, right, 30), exact, atol=1e-6)
    np.testing.assert_array_equal(conjugate_gradients(np.zeros((3, 3)), np.ones(3)), np.ones(3))


def test_wide_groups_are_ranked_within_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a width on, channels are solved for by descent, and the error still falls with the number kept."""
    monkeypatch.setattr("gnnexport.training.selection.WIDE", 10)
    readers = planted(3, [0, 4, 9, 11, 17, 19])
    ranking = Ranking(readers.gram(), "lasso", np.zeros(20), 0)
    assert set(ranking.order(6)[:6].tolist()) == {0, 4, 9, 11, 17, 19}
    assert ranking.error(ranking.order(12)[:12]) < 1e-3 < ranking.error(ranking.order(4)[:4])
