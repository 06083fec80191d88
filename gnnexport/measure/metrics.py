"""Metrics of node classification: what a model's scores are worth against the labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import DataError, SpecError, nearest

NO_CLASS = -1
"""Predicted class of a row whose scores hold NaN: equal to no label, so it counts as wrong."""


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are.

    Args:
        name: as in specs and reports.
        is_share: in [0, 1] and higher is better; its budget is given in percentage points.
        evaluate: takes labels and scores `[n, classes]`.
    """

    name: str
    is_share: bool
    evaluate: Callable[[NDArray[np.int64], NDArray[np.floating]], float]


def predict(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the class with the largest score of each row, `NO_CLASS` where a row holds NaN."""
    classes = np.argmax(scores, axis=1).astype(np.int64)
    return np.where(np.isnan(scores).any(axis=1), NO_CLASS, classes)


def evaluate(name: str, y_true: NDArray[np.integer], scores: NDArray[np.floating]) -> float:
    """Evaluate a metric by name.

    Args:
        name: a key of `METRICS`.
        y_true: int [n], every entry a class.
        scores: float [n, classes].

    Raises:
        SpecError: no such metric.
        DataError: shapes that do not fit, no rows, or a label outside the classes.
    """
    metric = find(name)
    _check(y_true, scores)
    return metric.evaluate(y_true.astype(np.int64), scores)


def find(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        SpecError: no such metric; lists the known ones.
    """
    if name not in METRICS:
        raise SpecError.at("metric", f"unknown name '{name}'", nearest(name, METRICS))
    return METRICS[name]


def drop(name: str, before: float, after: float) -> float:
    """Tell how much worse a metric became; positive is worse.

    A share drops by a difference of shares (0.005 is 0.5 pp), an error by a ratio (0.02 is 2 %).
    """
    if find(name).is_share:
        return before - after
    return (after - before) / before


def _check(y_true: NDArray[np.integer], scores: NDArray[np.floating]) -> None:
    if y_true.ndim != 1 or scores.ndim != 2 or len(y_true) != len(scores):
        raise DataError.at(
            "metric",
            f"labels {y_true.shape} do not fit scores {scores.shape}",
            "Give labels [n] and scores [n, classes]",
        )
    if len(y_true) == 0:
        raise DataError.at("metric", "there is no row to judge", "Give a test mask that selects at least one node")
    low, high = int(y_true.min()), int(y_true.max())
    if low < 0 or high >= scores.shape[1]:
        wrong = low if low < 0 else high
        mend = "Leave unlabelled nodes out of the mask, or use the labels the model was trained with"
        raise DataError.at("metric", f"label {wrong} is outside the model's {scores.shape[1]} classes", mend)


def _accuracy(y_true: NDArray[np.int64], scores: NDArray[np.floating]) -> float:
    return float(np.mean(predict(scores) == y_true))


def _f1_micro(y_true: NDArray[np.int64], scores: NDArray[np.floating]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(y_true, predict(scores), average="micro", zero_division=0.0))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", is_share=True, evaluate=_accuracy),
        Metric("f1-micro", is_share=True, evaluate=_f1_micro),
    )
}
"""Every metric by name."""
