import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from gnnexport.errors import DataError, SpecError
from gnnexport.measure.metrics import (
    NO_CLASS,
    default_metric,
    drop,
    evaluate,
    evaluate_predictions,
    find,
    higher_is_better,
    predict,
    predictions,
)

SCORES = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]])
NAMES = ["accuracy", "f1-micro", "f1-macro", "roc-auc", "average-precision", "hits@3", "f1-multilabel", "mae", "rmse"]


def sample(seed, n=40, columns=1, ties=False):
    """Labels of both kinds in every column, and scores that know something of them."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (n, columns))
    y[0], y[1] = 0, 1
    scores = rng.normal(size=(n, columns)) + y
    return y, np.round(scores * 2) if ties else scores


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


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), ties=st.booleans())
def test_binary_rankings_are_those_of_scikit_learn(seed, ties):
    """ROC AUC and average precision agree with scikit-learn, ties and all, from logits or from two scores."""
    y, scores = sample(seed, ties=ties)
    y, scores = y[:, 0], scores[:, 0]
    two = np.stack([scores * -0.25, scores * 0.75], axis=1)
    for given_scores in (scores, scores[:, None], two):
        assert evaluate("roc-auc", y, given_scores) == pytest.approx(reference.roc_auc_score(y, scores))
        expected = reference.average_precision_score(y, scores)
        assert evaluate("average-precision", y, given_scores) == pytest.approx(expected)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), classes=st.integers(3, 5))
def test_rankings_of_several_classes_are_one_against_the_rest(seed, classes):
    """The multi-class forms agree with scikit-learn on softmax probabilities."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, 30)])
    scores = (rng.normal(size=(len(y), classes)) + np.eye(classes)[y]).astype(np.float32)
    shares = np.exp(scores.astype(np.float64))
    shares /= shares.sum(1, keepdims=True)
    expected = reference.roc_auc_score(y, shares, multi_class="ovr", average="macro")
    assert evaluate("roc-auc", y, scores) == pytest.approx(expected)
    expected = reference.average_precision_score(np.eye(classes)[y], shares, average="macro")
    assert evaluate("average-precision", y, scores) == pytest.approx(expected)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_several_labels_with_unknown_ones(seed):
    """The mean goes over labels with rows of both kinds, each over the rows where it is known."""
    y, scores = sample(seed, columns=3)
    labels = y.astype(np.float32)
    labels[5:15, 1] = np.nan
    labels[:, 2] = 1
    known = ~np.isnan(labels[:, 1])
    parts = [(y[:, 0], scores[:, 0]), (y[known, 1], scores[known, 1])]
    expected = np.mean([reference.roc_auc_score(*part) for part in parts])
    assert evaluate("roc-auc", labels, scores) == pytest.approx(expected)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_f1_and_errors_are_those_of_scikit_learn(seed):
    """Macro F1, multi-label F1, MAE and RMSE agree with scikit-learn, for one column or several."""
    rng = np.random.default_rng(seed)
    y, scores = rng.integers(0, 4, 30), rng.normal(size=(30, 4))
    expected = reference.f1_score(y, scores.argmax(1), average="macro")
    assert evaluate("f1-macro", y, scores) == pytest.approx(expected)
    labels, logits = sample(seed, columns=3)
    expected = reference.f1_score(labels, logits > 0, average="micro")
    assert evaluate("f1-multilabel", labels.astype(np.float32), logits) == pytest.approx(expected)
    for columns in (1, 3):
        target, value = rng.normal(size=(30, columns)), rng.normal(size=(30, columns)).astype(np.float32)
        expected = reference.mean_absolute_error(target.ravel(), value.ravel())
        assert evaluate("mae", target, value) == pytest.approx(expected)
        expected = reference.mean_squared_error(target.ravel(), value.ravel()) ** 0.5
        assert evaluate("rmse", target, value) == pytest.approx(expected)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 30), ties=st.booleans())
def test_hits_are_those_of_ogb(seed, k, ties):
    """The share of positives above the k-th best negative, and 1 with fewer than k negatives."""
    y, scores = sample(seed, ties=ties)
    y, scores = y[:, 0], scores[:, 0].astype(np.float32)
    negatives = np.sort(scores[y == 0])[::-1]
    expected = 1.0 if len(negatives) < k else np.mean(scores[y == 1] > negatives[k - 1])
    assert evaluate(f"hits@{k}", y, scores) == pytest.approx(expected)


@pytest.mark.parametrize(("y", "scores"), [((4,), (4, 1)), ((4, 1), (4,)), ((4, 1), (4, 1))])
def test_a_column_of_one_is_no_matrix(y, scores):
    """Targets [n] and values [n, 1] are compared row by row, never each with all."""
    target, value = np.arange(4.0), np.arange(4.0) + 1
    assert evaluate("mae", target.reshape(y), value.reshape(scores)) == 1.0
    assert evaluate("rmse", target.reshape(y), value.reshape(scores)) == 1.0


def test_one_logit_is_a_class():
    """A model with one output calls class 1 where the logit is positive."""
    assert evaluate("accuracy", np.array([0, 1, 1]), np.array([-1.0, 2.0, -3.0])) == pytest.approx(2 / 3)
    assert evaluate("accuracy", np.array([0, 1, 1]), np.array([[-1.0], [2.0], [-3.0]])) == pytest.approx(2 / 3)


def test_unknown_targets_are_left_out():
    """A target of NaN is not judged; NaN from the model makes the error infinite."""
    assert evaluate("mae", np.array([[1.0, np.nan], [2.0, 5.0]]), np.array([[2.0, 9.0], [2.0, 5.0]])) == 1 / 3
    assert evaluate("mae", np.array([1.0, 2.0]), np.array([1.0, np.nan])) == math.inf
    with pytest.raises(DataError, match="no row has a target"):
        evaluate("rmse", np.array([np.nan]), np.array([1.0]))


def test_nan_never_helps_a_ranking():
    """A NaN score ranks a positive row last and a negative row first; a NaN logit is the wrong label."""
    y = np.array([0, 0, 1, 1])
    assert evaluate("roc-auc", y, np.array([0.0, 1.0, 2.0, np.nan])) == 0.5
    assert evaluate("roc-auc", y, np.array([np.nan, 1.0, 2.0, 3.0])) == 0.5
    assert evaluate("f1-multilabel", np.array([[1.0, 0.0]]), np.array([[np.nan, np.nan]])) == 0.0


def test_infinite_scores_have_their_place():
    """Log-probabilities of minus infinity rank last, and a certain class ranks first."""
    y = np.array([0, 1, 2, 0])
    certain = np.log(np.eye(3)[y], where=np.eye(3)[y] > 0, out=np.full((4, 3), -np.inf))
    assert evaluate("roc-auc", y, certain) == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_kept_predictions_are_enough(name):
    """What is kept of an output gives the metric of the output."""
    y, scores = sample(0, columns=2 if name in ("f1-multilabel", "f1-macro") else 1)
    y = y if name == "f1-multilabel" else y[:, 0]
    kept = predictions(name, scores)
    assert kept.dtype == (np.int64 if find(name).reads == "class" else np.float32)
    assert evaluate_predictions(name, y, kept) == evaluate(name, y, scores)


def test_unknown_metric_names_the_nearest():
    """A misspelt metric is answered with the nearest name."""
    with pytest.raises(SpecError, match="Did you mean 'accuracy'"):
        evaluate("acuracy", np.array([0]), SCORES[:1])
    with pytest.raises(SpecError, match=r"hits@K"):
        find("hits")


@pytest.mark.parametrize("name", ["hits@0", "hits@", "hits@-1", "hits@1.5", "hits@twenty"])
def test_hits_need_a_number(name):
    """Hits at no whole positive number is no metric."""
    with pytest.raises(SpecError, match=r"does not say how many.*hits@20"):
        find(name)


@pytest.mark.parametrize(
    ("name", "labels", "scores", "words"),
    [
        ("accuracy", [0, 1], SCORES, "do not fit"),
        ("accuracy", [0, 1, 2, 0], SCORES, "label 2 is outside"),
        ("accuracy", [0, 1, -1, 0], SCORES, "label -1 is outside"),
        ("accuracy", [0, 1, 2, 0], SCORES[:, 0], "label 2 is outside the model's 2 classes"),
        ("accuracy", [0.5, 1, 1, 0], SCORES, "not whole numbers. Choose mae or rmse"),
        ("accuracy", [[0, 1]] * 4, SCORES, "do not fit"),
        ("accuracy", [0, 1, 1, 0], SCORES[:, :0], "do not fit"),
        ("accuracy", [0, 1, 1, 0], SCORES[:, :, None], "do not fit"),
        ("roc-auc", [1, 1, 1, 1], SCORES, "needs positive and negative rows"),
        ("roc-auc", [0, 1, -1, 1], SCORES, "label -1 is neither 0 nor 1"),
        ("roc-auc", [[0, 1, 1]] * 4, SCORES, "do not fit"),
        ("roc-auc", [0, 1, 3, 1], np.ones((4, 3)), "label 3 is outside"),
        ("hits@2", [0, 1, 2, 1], np.ones((4, 3)), "one score each"),
        ("f1-multilabel", [[0, 2]] * 4, SCORES, "label 2.0 is neither"),
        ("f1-multilabel", [[0, 1, 1]] * 4, SCORES, "do not fit"),
        ("mae", [0.0, 1.0, 2.0, 3.0], SCORES, "do not fit"),
        ("mae", [0.0, 1.0, 2.0], np.ones((4, 1)), "do not fit"),
    ],
)
def test_what_does_not_fit(name, labels, scores, words):
    """Labels of another form or outside the classes are refused."""
    with pytest.raises(DataError, match=words):
        evaluate(name, np.array(labels), scores)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name):
    """An empty test split is refused, not scored."""
    with pytest.raises(DataError, match="no row to judge"):
        evaluate(name, np.zeros(0, np.int64), SCORES[:0])


def test_drop_is_positive_when_worse():
    """Losing accuracy is a positive drop; an error that grows is one too, relative to what it was."""
    assert drop("accuracy", 0.8, 0.75) == pytest.approx(0.05)
    assert drop("mae", 0.5, 0.51) == pytest.approx(0.02)
    assert drop("rmse", 0.5, 0.4) == pytest.approx(-0.2)
    assert higher_is_better("hits@20")
    assert not higher_is_better("mae")


def test_drop_from_an_error_of_zero():
    """A perfect original can only be left: infinitely, unless errors that small are rounding."""
    assert drop("mae", 0.0, 0.0) == 0.0
    assert drop("mae", 0.0, 0.1) == math.inf
    assert drop("mae", 0.0, 1e-6, floor=1e-4) == 0.0
    assert drop("mae", 0.0, 3e-4, floor=1e-4) == pytest.approx(2)


@pytest.mark.parametrize(
    ("kind", "y", "name"),
    [
        ("node-classification", np.zeros(3, int), "accuracy"),
        ("graph-classification", np.zeros((3, 2)), "f1-multilabel"),
        ("graph-classification", None, "accuracy"),
        ("graph-regression", np.zeros((3, 2)), "mae"),
        ("node-regression", np.zeros(3), "mae"),
        ("link-prediction", np.zeros(3, int), "roc-auc"),
    ],
)
def test_the_metric_nobody_named(kind, y, name):
    """The task and the form of the labels decide."""
    assert default_metric(kind, y) == name
