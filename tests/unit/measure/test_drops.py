import numpy as np
import pytest

from gnnexport.errors import DataError
from gnnexport.measure.drops import compare_predictions, point_drop
from gnnexport.measure.metrics import evaluate, find, predictions

NAMES = ["roc-auc", "average-precision", "hits@10", "f1-macro", "f1-multilabel", "mae", "rmse"]


def sample(name, seed=0, n=300):
    """Labels, an original's predictions, and those of something a little worse."""
    rng = np.random.default_rng(seed)
    if name == "f1-multilabel":
        y = (rng.random((n, 3)) < 0.4).astype(np.float32)
        scores = rng.normal(size=(n, 3)) + 2 * y - 1
    elif name == "f1-macro":
        y = rng.integers(0, 3, n)
        scores = rng.normal(size=(n, 3)) + np.eye(3)[y]
    else:
        y = rng.integers(0, 2, n) if find(name).is_share else rng.normal(size=n)
        scores = rng.normal(size=n) + y
    worse = scores + 0.5 * rng.normal(size=scores.shape)
    return y, scores, worse


@pytest.mark.parametrize("name", ["accuracy", "f1-micro"])
def test_right_and_wrong_rows_are_counted(name):
    """Metrics of right rows keep the interval that counts lost and won rows."""
    y, scores, worse = sample("f1-macro")
    found = compare_predictions(name, y, predictions(name, scores), predictions(name, worse), budget=0.005)
    assert "Bonett-Price" in found.interval.method
    assert found.interval.value == pytest.approx(evaluate(name, y, scores) - evaluate(name, y, worse))
    assert found.deciding > 300


@pytest.mark.parametrize("name", NAMES)
def test_the_drop_stands_in_its_interval(name):
    """The estimate is the drop of the metric, and the bootstrap's interval holds it and is the same every time."""
    y, scores, worse = sample(name)
    pair = predictions(name, scores), predictions(name, worse)
    found = compare_predictions(name, y, *pair)
    before, after = evaluate(name, y, scores), evaluate(name, y, worse)
    expected = before - after if find(name).is_share else (after - before) / before
    assert found.interval.value == pytest.approx(expected)
    low, high = found.interval.ci95
    assert low < found.interval.value < high
    assert "percentile bootstrap, 1,000 paired resamples (seed 0) of 300 rows" in found.interval.method
    assert compare_predictions(name, y, *pair) == found


@pytest.mark.parametrize("name", NAMES)
def test_equal_predictions_drop_by_nothing(name):
    """Whatever the rows, what did not change did not drop, and no number of rows would tell more."""
    y, scores, _ = sample(name)
    kept = predictions(name, scores)
    found = compare_predictions(name, y, kept, kept)
    assert (found.interval.value, found.interval.ci95, found.deciding) == (0.0, (0.0, 0.0), None)


def test_more_rows_decide():
    """With as many rows as it says, drawn alike, the interval is clear of the budget."""
    y, scores, worse = sample("roc-auc", n=200)
    found = compare_predictions("roc-auc", y, scores, worse, budget=0.02)
    assert found.interval.low < 0.02
    copies = -(-found.deciding // 200)
    again = compare_predictions("roc-auc", *(np.tile(part, copies) for part in (y, scores, worse)), budget=0.02)
    assert again.interval.low > 0.02 or again.interval.high < 0.02


@pytest.mark.parametrize(("name", "truth"), [("mae", 0.5), ("roc-auc", None)])
def test_the_interval_covers_the_truth(name, truth):
    """Of many samples, about 95 in 100 intervals hold the drop of the whole population."""
    rng = np.random.default_rng(0)
    y, scores, worse = sample(name, seed=1, n=40_000)
    if name == "mae":
        truth = evaluate(name, y, worse) / evaluate(name, y, scores) - 1
    else:
        truth = evaluate(name, y, scores) - evaluate(name, y, worse)
    covered = 0
    for _ in range(100):
        rows = rng.choice(len(y), 150, replace=False)
        interval = compare_predictions(name, y[rows], scores[rows], worse[rows]).interval
        covered += interval.low <= truth <= interval.high
    assert 87 <= covered <= 100


def test_large_splits_are_resampled_less():
    """Where a thousand resamples would take long, the standard error of fewer gives the interval."""
    y, scores, worse = sample("mae", n=150_000)
    found = compare_predictions("mae", y, scores, worse).interval
    assert "standard errors by bootstrap, 66 paired" in found.method
    assert found.low < found.value < found.high


def test_a_perfect_original():
    """Rounding of an error of zero is no drop; a real error is a large one, and finite."""
    y = np.arange(1.0, 101.0)
    close = compare_predictions("mae", y, y, y + 1e-5)
    assert (close.interval.value, close.interval.ci95) == (0.0, (0.0, 0.0))
    far = compare_predictions("mae", y, y, y + 1.0)
    assert 1e3 < far.interval.value < 1e6


@pytest.mark.parametrize("name", ["mae", "rmse"])
def test_a_small_error_of_large_targets(name):
    """An error that grew by half grew by half, however far the targets are from zero."""
    rng = np.random.default_rng(0)
    y = 2e4 + rng.normal(size=200)
    noise = rng.normal(size=200)
    found = compare_predictions(name, y, y + 0.02 * noise, y + 0.03 * noise, budget=0.02)
    assert found.interval.value == pytest.approx(0.5)
    assert found.interval.low > 0.4


def test_the_result_does_not_set_its_own_measure():
    """A result with one huge answer is as much worse as its error says."""
    y = np.linspace(-1, 1, 100)
    after = y.copy()
    after[0] = 1e6
    found = compare_predictions("mae", y, y + 0.1, after)
    assert found.interval.value == pytest.approx(evaluate("mae", y, after) / 0.1 - 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_drop_alone(name):
    """Without an interval the drop is the same."""
    y, scores, worse = sample(name)
    pair = predictions(name, scores), predictions(name, worse)
    assert point_drop(name, y, *pair) == compare_predictions(name, y, *pair).interval.value


@pytest.mark.parametrize("name", ["roc-auc", "average-precision", "mae"])
def test_labels_in_a_column_of_their_own(name):
    """Labels [n, 1] and scores [n] are the same rows as labels [n]."""
    y, scores, worse = sample(name)
    assert compare_predictions(name, y[:, None], scores, worse) == compare_predictions(name, y, scores, worse)


def test_one_row_has_no_interval():
    """A single row says nothing about spread."""
    found = compare_predictions("mae", np.array([1.0]), np.array([1.1]), np.array([1.2]))
    assert found.interval.ci95 is None


def test_predictions_that_do_not_fit():
    """Predictions of other rows are refused."""
    with pytest.raises(DataError, match="do not fit"):
        compare_predictions("mae", np.ones(3), np.ones(3), np.ones(4))
