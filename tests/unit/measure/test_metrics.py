import numpy as np
import pytest

from gnnexport.errors import DataError, SpecError
from gnnexport.measure.metrics import NO_CLASS, drop, evaluate, predict

SCORES = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]])


@pytest.mark.parametrize("name", ["accuracy", "f1-micro"])
def test_share_of_right_rows(name):
    """Both metrics are the share of right rows when each row has one label."""
    assert evaluate(name, np.array([0, 1, 1, 1]), SCORES) == 0.75


@pytest.mark.parametrize("name", ["accuracy", "f1-micro"])
def test_nan_scores_count_as_wrong(name):
    """A row with NaN is wrong, whatever its label."""
    scores = SCORES.copy()
    scores[0, 1] = np.nan
    assert predict(scores)[0] == NO_CLASS
    assert evaluate(name, np.array([0, 1, 0, 1]), scores) == 0.75


def test_unknown_metric_names_the_nearest():
    """A misspelt metric is answered with the nearest name."""
    with pytest.raises(SpecError, match="Did you mean 'accuracy'"):
        evaluate("acuracy", np.array([0]), SCORES[:1])


@pytest.mark.parametrize(
    ("labels", "words"),
    [([0, 1], "do not fit"), ([0, 1, 2, 0], "label 2 is outside"), ([0, 1, -1, 0], "label -1 is outside")],
)
def test_labels_that_do_not_fit(labels, words):
    """Labels of another length or outside the classes are refused."""
    with pytest.raises(DataError, match=words):
        evaluate("accuracy", np.array(labels), SCORES)


def test_no_rows():
    """An empty test split is refused, not scored."""
    with pytest.raises(DataError, match="no row to judge"):
        evaluate("accuracy", np.zeros(0, np.int64), SCORES[:0])


def test_drop_is_positive_when_worse():
    """Losing accuracy is a positive drop."""
    assert drop("accuracy", 0.8, 0.75) == pytest.approx(0.05)
