"""Metrics: what a model's scores are worth against labels or targets.

NaN never helps: a row with NaN scores is wrong, ranks below every positive or above every negative, and makes an
error infinite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import DataError, SpecError, nearest
from gnnexport.measure import ranking

NO_CLASS = -1
"""Predicted class of a row whose scores hold NaN: equal to no label, so it counts as wrong."""

Reads = Literal["class", "labels", "ranking", "value"]
"""What a metric looks at: the best class of a row, the labels with a positive score, the order of rows, the value."""


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are.

    Args:
        name: as in specs and reports.
        reads: what of the scores it looks at.
        compute: takes labels and predictions, checked to fit.
        score: of one binary problem, where the metric reads a ranking; see `gnnexport.measure.ranking`.
    """

    name: str
    reads: Reads
    compute: Callable[[NDArray[Any], NDArray[Any]], float]
    score: ranking.Score | None = None

    @property
    def is_share(self) -> bool:
        """In [0, 1] and higher is better; its budget is given in percentage points. Else an error: lower is better."""
        return self.reads != "value"


def predict(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the class with the largest score of each row, `NO_CLASS` where a row holds NaN.

    Args:
        scores: float [n, classes]; or [n] or [n, 1], logits of class 1 against class 0.
    """
    wide = scores[:, None] if scores.ndim == 1 else scores
    classes = (wide[:, 0] > 0) if wide.shape[1] == 1 else np.argmax(wide, axis=1)
    return np.where(np.isnan(wide).any(axis=1), NO_CLASS, classes.astype(np.int64))


def predictions(name: str, scores: NDArray[np.floating]) -> NDArray[Any]:
    """Return what has to be kept of a model's output to evaluate a metric later.

    Returns:
        classes int64 [n] where the metric looks at the best class only, else the scores as float32.
    """
    return predict(scores) if find(name).reads == "class" else np.asarray(scores, np.float32)


def evaluate(name: str, y: NDArray[Any], scores: NDArray[np.floating]) -> float:
    """Evaluate a metric by name.

    Args:
        name: a key of `METRICS`, or `hits@K`.
        y: of rows that have a label: classes int [n], several labels float [n, labels] of 0 and 1 (NaN where
            unknown), or targets float [n] or [n, targets] (NaN where unknown).
        scores: float [n], [n, classes], [n, labels] or [n, targets].

    Raises:
        SpecError: no such metric.
        DataError: shapes that do not fit, no rows, a label outside the classes, or one kind of row where the
            metric needs two.
    """
    metric = find(name)
    fits = scores.ndim in (1, 2) and 0 not in scores.shape[1:]
    _check_fit(fits, metric, y, scores, "scores [n] or [n, classes]")
    if metric.reads == "class" and y.shape == scores.shape[:1] and len(y):
        check_classes(y, max(2, *scores.shape[1:], 0))
    return evaluate_predictions(name, y, predictions(name, scores))


def evaluate_predictions(name: str, y: NDArray[Any], given: NDArray[Any]) -> float:
    """Evaluate a metric from what `predictions` kept of a model's output.

    Raises:
        SpecError, DataError: as `evaluate`.
    """
    metric = find(name)
    y, given = fitted(metric, y, given)
    return metric.compute(y, given)


def find(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        SpecError: no such metric; lists the known ones.
    """
    hits = re.fullmatch(r"hits@(\d+)", name)
    if hits and int(hits[1]) > 0:
        score = ranking.hits_at(int(hits[1]))
        return Metric(name, "ranking", _mean_over_problems(name, score), score)
    if name.startswith("hits@"):
        mend = "Write a whole number of negatives from 1 on, such as hits@20"
        raise SpecError.at("metric", f"'{name}' does not say how many", mend)
    if name not in METRICS:
        raise SpecError.at("metric", f"unknown name '{name}'", nearest(name, (*METRICS, "hits@K")))
    return METRICS[name]


def default_metric(kind: str, y: Any = None) -> str:
    """Return the metric of a task when nobody names one.

    Args:
        kind: of the task, such as `graph-regression`.
        y: labels, as an array or a tensor; a second axis of several labels decides.
    """
    if kind == "link-prediction":
        return "roc-auc"
    if kind.endswith("regression"):
        return "mae"
    return "f1-multilabel" if y is not None and y.ndim == 2 and y.shape[1] > 1 else "accuracy"


def higher_is_better(name: str) -> bool:
    """Tell whether a larger value of a metric is better: true of shares, false of errors."""
    return find(name).is_share


def drop(name: str, before: float, after: float, *, floor: float = 0.0) -> float:
    """Tell how much worse a metric became; positive is worse.

    A share drops by a difference of shares (0.005 is 0.5 pp), an error by a ratio (0.02 is 2 %).

    Args:
        name: of the metric.
        before: of the original.
        after: of the result.
        floor: errors below it, before and after, are taken to be this large; without one, leaving an error of zero
            is an infinite drop.
    """
    if find(name).is_share:
        return before - after
    before, after = max(before, floor), max(after, floor)
    if before == after:
        return 0.0
    return (after - before) / before if before > 0 else math.inf


def check_classes(y: NDArray[Any], num_classes: int) -> None:
    """Refuse labels that the model has no class for.

    Raises:
        DataError: naming the label.
    """
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        mend = "Leave unlabelled rows out of the mask, or use the labels the model was trained with"
        raise DataError.at("metric", f"label {wrong} is outside the model's {num_classes} classes", mend)


def fitted(metric: Metric, y: NDArray[Any], given: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bring labels and predictions into the one form that a metric computes on.

    Returns:
        For `class`, int64 [n] twice; for `labels` and `value`, float64 [n, columns] twice; for `ranking`, both
        with the same number of rows.

    Raises:
        DataError: they do not fit one another or the metric.
    """
    if len(y) == 0:
        raise DataError.at("metric", "there is no row to judge", "Give a test mask that selects at least one row")
    if metric.reads == "class":
        _check_fit(y.ndim == 1 and y.shape == given.shape, metric, y, given, "labels [n] and scores [n, classes]")
        if not np.array_equal(y, np.round(y)):
            what = f"{metric.name} judges classes, and the labels are not whole numbers"
            raise DataError.at("metric", what, "Choose mae or rmse, or number the classes 0, 1, …")
        return y.astype(np.int64), given.astype(np.int64)
    if metric.reads == "ranking":
        return _fitted_ranking(metric, y, given)
    known, wide = _columns(y), _columns(given)
    mend = "targets [n] and values [n], or both [n, targets]"
    mend = mend if metric.reads == "value" else "labels [n, labels] of 0 and 1, and as many scores"
    _check_fit(known.shape == wide.shape, metric, y, given, mend)
    if metric.reads == "labels":
        _check_binary(metric, known)
    return known, wide


def _fitted_ranking(metric: Metric, y: NDArray[Any], given: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    several = y.ndim == 2 and y.shape[1] > 1
    columns = given.shape[1] if given.ndim == 2 else 1
    fits = y.ndim in (1, 2) and given.ndim in (1, 2) and len(y) == len(given)
    fits = fits and columns > 0 and (not several or y.shape[1] == columns)
    _check_fit(fits, metric, y, given, "labels [n] and scores [n] or [n, classes], or both [n, labels]")
    if metric.name.startswith("hits@") and (several or columns > 2):
        raise DataError.at("metric", f"{metric.name} judges pairs by one score each", "Use average-precision")
    if several or columns <= 2:
        _check_binary(metric, y)
    else:
        check_classes(y, columns)
    return y, given


def _columns(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return values [n, columns]; [n] is one column."""
    wide = values.astype(np.float64)
    return wide[:, None] if wide.ndim == 1 else wide


def _check_fit(fits: bool, metric: Metric, y: NDArray[Any], given: NDArray[Any], wanted: str) -> None:
    if not fits:
        what = f"labels {y.shape} do not fit scores {given.shape} for {metric.name}"
        raise DataError.at("metric", what, f"Give {wanted}")


def _check_binary(metric: Metric, y: NDArray[Any]) -> None:
    known = y[~np.isnan(y.astype(np.float64))]
    if not np.isin(known, (0, 1)).all():
        what = f"label {known[~np.isin(known, (0, 1))][0]} is neither 0 nor 1, as {metric.name} wants them"
        raise DataError.at("metric", what, "Leave unlabelled rows out of the mask, or number two classes 0 and 1")


def _accuracy(y: NDArray[np.int64], classes: NDArray[np.int64]) -> float:
    return float(np.mean(classes == y))


def _f1(average: str) -> Callable[[NDArray[Any], NDArray[Any]], float]:
    def f1(y: NDArray[np.int64], classes: NDArray[np.int64]) -> float:
        from sklearn.metrics import f1_score

        # NO_CLASS is a wrong answer, not a class of its own to average over.
        labels = np.union1d(y, classes[classes != NO_CLASS]) if average == "macro" else None
        return float(f1_score(y, classes, labels=labels, average=average, zero_division=0.0))

    return f1


def _f1_multilabel(y: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    right, wanted, given = label_counts(y, scores).sum(0)
    return float(2 * right / (wanted + given)) if wanted + given else 0.0


def label_counts(y: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count for each row the labels that are found, wanted and given: float64 [n, 3].

    Where a score is NaN, the opposite of the label is taken to be given.
    """
    known = ~np.isnan(y)
    wanted = known & (y == 1)
    given = known & np.where(np.isnan(scores), ~wanted, scores > 0)
    return np.stack([(wanted & given).sum(1), wanted.sum(1), given.sum(1)], axis=1).astype(np.float64)


def _mean_over_problems(name: str, score: ranking.Score) -> Callable[[NDArray[Any], NDArray[Any]], float]:
    def mean(y: NDArray[Any], scores: NDArray[Any]) -> float:
        posed = ranking.problems(name, y, scores)
        return float(np.mean([score(problem, np.ones((1, len(problem.rows))))[0] for problem in posed]))

    return mean


def errors(y: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far values are from targets, both [n, targets]: NaN where no target is known, infinite for NaN."""
    return np.where(np.isnan(y), np.nan, np.where(np.isnan(values), np.inf, np.abs(values - y)))


def _mae(y: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    return _mean_known(errors(y, values))


def _rmse(y: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    return math.sqrt(_mean_known(errors(y, values) ** 2))


def _mean_known(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    if not known.size:
        raise DataError.at("metric", "no row has a target", "Give a test mask that selects at least one labelled row")
    return float(known.mean())


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "class", _accuracy),
        Metric("f1-micro", "class", _f1("micro")),
        Metric("f1-macro", "class", _f1("macro")),
        Metric("f1-multilabel", "labels", _f1_multilabel),
        Metric("roc-auc", "ranking", _mean_over_problems("roc-auc", ranking.area_under_roc), ranking.area_under_roc),
        Metric(
            "average-precision",
            "ranking",
            _mean_over_problems("average-precision", ranking.average_precision),
            ranking.average_precision,
        ),
        Metric("mae", "value", _mae),
        Metric("rmse", "value", _rmse),
    )
}
"""Every metric by name, but for `hits@K`, of which there is one for every K."""
