"""How much worse a metric became on the same rows, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.measure import metrics, ranking
from gnnexport.measure.intervals import Interval, deciding_sample, paired_drop

RESAMPLES = 1000
FEWEST_RESAMPLES = 50
ENOUGH_FOR_PERCENTILES = 200
SEED = 0

_WORK = 10_000_000
"""Entries, over all resamples, that a bootstrap may draw before it makes do with fewer resamples: about a second."""

_CHUNK = 1_000_000
_Z95 = 1.959963984540054
_ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Errors below this share of the largest magnitude at hand are what float32 cannot tell from none."""

Resampled = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Takes how often each row counts, [samples, n], and returns the metric of each sample."""


@dataclass(frozen=True)
class PairedDrop:
    """A drop with its interval.

    Args:
        interval: of the drop, as `metrics.drop` gives it.
        deciding: rows that would bring the interval clear of the budget; `None` when no number would.
    """

    interval: Interval
    deciding: int | None


def compare_predictions(
    name: str, y: NDArray[Any], before: NDArray[Any], after: NDArray[Any], *, budget: float = 0.0
) -> PairedDrop:
    """Estimate the drop of a metric from two sets of predictions of the same rows.

    Metrics that count right rows get the interval of `paired_drop`. All others get the percentile bootstrap over
    rows (Efron and Tibshirani 1993, chapter 13): the same resampled rows are judged before and after.

    Args:
        name: of the metric.
        y: labels of n rows; see `metrics.evaluate`.
        before: what `metrics.predictions` kept of the original.
        after: the same of the result.
        budget: the drop that `deciding` is to decide.

    Raises:
        SpecError, DataError: as `metrics.evaluate`.
    """
    metric = metrics.find(name)
    y, before = metrics.fitted(metric, y, before)
    _, after = metrics.fitted(metric, y, after)
    if name in ("accuracy", "f1-micro"):
        right = before == y, after == y
        return PairedDrop(paired_drop(*right), deciding_sample(*right, budget))
    floor = 0.0 if metric.is_share else rounding(y, before)
    value = metrics.drop(name, metric.compute(y, before), metric.compute(y, after), floor=floor)
    drops = _resampled_drops(metric, y, before, after, floor)
    interval = _interval(value, drops, len(y))
    return PairedDrop(interval, _deciding(value, drops, len(y), budget))


def point_drop(name: str, y: NDArray[Any], before: NDArray[Any], after: NDArray[Any]) -> float:
    """Return the drop of a metric without its interval; for the arguments see `compare_predictions`.

    Raises:
        SpecError, DataError: as `metrics.evaluate`.
    """
    metric = metrics.find(name)
    y, before = metrics.fitted(metric, y, before)
    _, after = metrics.fitted(metric, y, after)
    floor = 0.0 if metric.is_share else rounding(y, before)
    return metrics.drop(name, metric.compute(y, before), metric.compute(y, after), floor=floor)


def rounding(*values: NDArray[Any]) -> float:
    """Return the error below which float32 values are equal: a share of their largest finite magnitude."""
    finite = [np.abs(array[np.isfinite(array)]).max(initial=0.0) for array in values]
    return float(max(finite)) * _ROUNDING


def _resampled_drops(
    metric: metrics.Metric, y: NDArray[Any], before: NDArray[Any], after: NDArray[Any], floor: float
) -> NDArray[np.float64]:
    """Return the drop in each resample of the rows, without those in which the metric has no value."""
    old, new = _resampler(metric, y, before), _resampler(metric, y, after)
    found = []
    for counts in _draws(len(y), columns=before.shape[1] if before.ndim == 2 else 1):
        first, second = old(counts), new(counts)
        if metric.is_share:
            found.append(first - second)
        else:
            first, second = np.maximum(first, floor), np.maximum(second, floor)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = (second - first) / first
            found.append(np.where(first == second, 0.0, ratio))
    drops = np.concatenate(found)
    return drops[np.isfinite(drops)]


def _draws(n: int, columns: int) -> Iterator[NDArray[np.float64]]:
    """Draw rows with replacement; yield how often each was drawn, float64 [samples, n], a chunk at a time."""
    rng = np.random.default_rng(SEED)
    left = max(FEWEST_RESAMPLES, min(RESAMPLES, _WORK // (n * columns)))
    while left:
        samples = min(left, max(1, _CHUNK // n))
        drawn = rng.integers(0, n, (samples, n)) + np.arange(samples)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=samples * n).reshape(samples, n).astype(np.float64)
        left -= samples


def _resampler(metric: metrics.Metric, y: NDArray[Any], given: NDArray[Any]) -> Resampled:
    if metric.reads == "ranking":
        return _ranking(metric, y, given)
    if metric.reads == "value":
        return _error(metric, y, given)
    if metric.reads == "labels":
        totals = metrics.label_counts(y, given)
        return lambda counts: _f1(*(counts @ totals).T)
    return _f1_macro(y, given)


def _ranking(metric: metrics.Metric, y: NDArray[Any], scores: NDArray[Any]) -> Resampled:
    posed = ranking.problems(metric.name, y, scores)
    score = metric.score
    assert score is not None

    def resampled(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.stack([score(problem, counts[:, problem.rows]) for problem in posed])
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(known, values, 0.0).sum(0) / known.sum(0))

    return resampled


def _error(metric: metrics.Metric, y: NDArray[np.float64], values: NDArray[np.float64]) -> Resampled:
    distance = metrics.errors(y, values)
    power = 2 if metric.name == "rmse" else 1
    known = ~np.isnan(distance)
    row_sums, row_counts = np.where(known, distance**power, 0.0).sum(1), known.sum(1)

    def resampled(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(((counts @ row_sums) / (counts @ row_counts)) ** (1 / power))

    return resampled


def _f1_macro(y: NDArray[np.int64], classes: NDArray[np.int64]) -> Resampled:
    labels = np.union1d(y, classes[classes != metrics.NO_CLASS])
    wanted, given = (np.equal.outer(rows, labels).astype(np.float64) for rows in (y, classes))

    def resampled(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        right, of, made = counts @ (wanted * given), counts @ wanted, counts @ given
        seen = (of + made) > 0
        return np.asarray(_f1(right, of, made).sum(1) / seen.sum(1))

    return resampled


def _f1(right: NDArray[np.float64], wanted: NDArray[np.float64], given: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 2 right / (wanted + given), 0 where neither occurs."""
    return np.asarray(2 * right / np.maximum(wanted + given, 1))


def _interval(value: float, drops: NDArray[np.float64], n: int) -> Interval:
    if n < 2 or len(drops) < FEWEST_RESAMPLES // 2 or not math.isfinite(value):
        return Interval(value, None, None, "too few rows of both kinds to resample: no interval")
    drawn = f"{len(drops):,} paired resamples (seed {SEED}) of {n:,} rows taken as independent"
    if len(drops) < ENOUGH_FOR_PERCENTILES:
        half = _Z95 * float(np.std(drops))
        return Interval(value, value - half, value + half, f"1.96 standard errors by bootstrap, {drawn}")
    low, high = (float(end) for end in np.percentile(drops, (2.5, 97.5)))
    return Interval(value, low, high, f"percentile bootstrap, {drawn}")


def _deciding(value: float, drops: NDArray[np.float64], n: int, budget: float) -> int | None:
    """Return the rows with which 1.96 standard errors, which shrink with their root, reach from drop to budget."""
    distance = abs(value - budget)
    if len(drops) < 2 or not math.isfinite(distance) or distance == 0:
        return None
    return max(1, math.ceil(n * (_Z95 * float(np.std(drops)) / distance) ** 2))
