import numpy as np
import pytest

from gnnexport.validate.parity import compare_arrays, compare_outputs

EXPECTED = np.array([[1.0, -4.0], [2.0, 1.999]])


def test_errors_are_relative_to_the_largest_output():
    """An error counts against the largest magnitude expected."""
    parity = compare_arrays(EXPECTED, EXPECTED + np.array([[0.0, 0.004], [0.0, 0.0]]))
    assert parity.max_abs_error == pytest.approx(0.004)
    assert parity.max_rel_error == pytest.approx(0.001)


def test_moved_predictions_and_near_ties():
    """A prediction may move where the margin is within twice the error; both are counted, moved or not."""
    moved = compare_arrays(EXPECTED, EXPECTED + np.array([[0.0, 0.0], [-0.001, 0.001]]))
    assert (moved.moved, moved.near_ties) == (1, 1)
    stayed = compare_arrays(EXPECTED, EXPECTED + np.array([[0.0, 0.0], [0.001, 0.0]]))
    assert (stayed.moved, stayed.near_ties) == (0, 1)
    both = moved.merge(stayed)
    assert (both.moved, both.near_ties) == (1, 2)
    assert compare_arrays(EXPECTED, EXPECTED).near_ties == 0


def test_only_near_ties_move():
    """No prediction moves outside near-ties, whatever the error, not even to NaN."""
    random = np.random.default_rng(0)
    expected = random.normal(size=(500, 4))
    for noise in (1e-3, 0.1, 10.0, np.nan):
        actual = expected + noise * random.normal(size=expected.shape)
        parity = compare_arrays(expected, actual)
        assert parity.moved <= parity.near_ties


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value):
    """NaN or infinity on one side only is an infinite error; on both sides it is none."""
    broken = EXPECTED.copy()
    broken[0, 0] = value
    assert compare_arrays(EXPECTED, broken).max_abs_error == np.inf
    assert compare_arrays(broken, EXPECTED).max_abs_error == np.inf
    assert compare_arrays(broken, broken).max_abs_error == 0


def test_zeros():
    """Where all expected outputs are zero the error counts as it is."""
    assert compare_arrays(np.zeros((2, 3)), np.full((2, 3), 0.5)).max_rel_error == 0.5


def test_shapes_and_missing_outputs():
    """Another shape or a missing output is an infinite error."""
    assert compare_arrays(EXPECTED, EXPECTED[:1]).max_rel_error == np.inf
    assert compare_outputs({"logits": EXPECTED}, {"other": EXPECTED}).max_rel_error == np.inf


def test_kept_rows():
    """Only the rows kept are compared."""
    actual = np.vstack([EXPECTED, [[9.0, 9.0]]])
    assert compare_outputs({"logits": EXPECTED[1:]}, {"logits": actual}, np.array([1])).max_abs_error == 0


def test_one_column():
    """A single output has no runner-up, so no ties."""
    assert compare_arrays(np.ones((3, 1)), np.ones((3, 1))).near_ties == 0


def test_no_rows():
    """Nothing to compare agrees."""
    assert compare_arrays(np.zeros((0, 3)), np.zeros((0, 3))).max_rel_error == 0
