import numpy as np
import pytest

from gnnexport.measure.intervals import deciding_sample, paired_drop, ratio_of_medians


def test_paired_drop_counts_lost_and_won_rows():
    """The estimate is the share of rows lost minus the share won."""
    before = np.array([True] * 80 + [False] * 20)
    after = np.array([True] * 76 + [False] * 4 + [True] * 1 + [False] * 19)
    interval = paired_drop(before, after)
    assert interval.value == pytest.approx(0.03)
    assert interval.low < 0.03 < interval.high
    assert "4 lost and 1 won of 100 rows" in interval.method


def test_equal_predictions_still_have_an_interval():
    """That no row changed among 100 does not prove that none ever does."""
    right = np.ones(100, bool)
    interval = paired_drop(right, right)
    assert interval.value == 0
    assert interval.low < -0.01
    assert interval.high > 0.01


def test_interval_covers_the_truth_as_often_as_it_says():
    """Of many samples, the interval holds the true drop in about 95 % or more."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        draw = rng.random(300)
        lost, won = draw < 0.03, (draw >= 0.03) & (draw < 0.04)
        interval = paired_drop(~won, ~lost)
        covered += interval.low <= 0.02 <= interval.high
    assert 0.93 <= covered / 2000 <= 0.985


def test_deciding_sample_brings_the_interval_clear():
    """With as many rows as it says, at the same rates, the interval no longer straddles the budget."""
    before = np.array([True] * 97 + [False] * 3)
    after = np.array([False] * 3 + [True] * 97)
    needed = deciding_sample(before, after, 0.02)
    copies = -(-needed // 100)
    assert paired_drop(before, after).high > 0.02
    assert paired_drop(np.tile(before, copies), np.tile(after, copies)).high < 0.02


def test_nothing_decides_a_drop_equal_to_the_budget():
    """No number of rows decides when the drop is the budget."""
    right = np.ones(10, bool)
    assert deciding_sample(right, right, 0.0) is None


def test_vectors_of_different_rows_are_refused():
    """Pairing needs the same rows."""
    with pytest.raises(ValueError, match="two equal"):
        paired_drop(np.ones(3, bool), np.ones(4, bool))


def test_drift_common_to_both_cancels():
    """Blocks that slow down together give a sharp ratio."""
    interval = ratio_of_medians(2.0, [10.0, 20.0, 40.0], [5.0, 10.0, 20.0])
    assert interval.ci95 == pytest.approx((2.0, 2.0))


def test_three_blocks_give_a_wide_interval():
    """Three blocks that disagree are worth little, and the interval says so."""
    interval = ratio_of_medians(2.0, [10.0, 11.0, 9.0], [5.0, 5.0, 5.0])
    assert interval.low < 1.6
    assert interval.high > 2.4


def test_one_block_gives_no_interval():
    """A single block says nothing about spread."""
    assert ratio_of_medians(2.0, [10.0], [5.0]).ci95 is None
