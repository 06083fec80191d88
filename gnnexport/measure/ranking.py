"""Rankings: labels and scores as binary problems, one or several, and what a ranking is worth.

Every function of a problem takes how often each row counts, several samples at once, so that a bootstrap of
thousands of rows sorts them only once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import DataError

Floats = NDArray[np.float64]
Score = Callable[["Problem", Floats], Floats]


@dataclass(frozen=True)
class Problem:
    """Is a row positive?

    Args:
        rows: int64 [m], the rows whose label is known.
        positive: bool [m].
        scores: float64 [m], higher is more likely positive; a NaN became the worst score for its label.
    """

    rows: NDArray[np.int64]
    positive: NDArray[np.bool_]
    scores: Floats


def problems(metric: str, y: NDArray[Any], scores: NDArray[np.floating]) -> list[Problem]:
    """Pose the binary problems that have rows of both kinds.

    One label, two classes: one problem, ranked by the logit, or by the difference of both scores. One label,
    more classes: each class against the rest, ranked by its log odds, which orders rows as softmax does and does
    not saturate. Several labels: one problem each, over the rows where it is known.

    Args:
        metric: for messages.
        y: classes int [n], or float [n, labels] of 0 and 1 with NaN where unknown.
        scores: float [n], [n, 1], [n, classes], or [n, labels].

    Raises:
        DataError: labels that are neither, or that do not fit, or no problem with rows of both kinds.
    """
    wide = scores.astype(np.float64).reshape(len(scores), -1)
    if y.ndim == 2 and y.shape[1] > 1:
        posed = [_known(y[:, label], wide[:, label]) for label in range(y.shape[1])]
    elif wide.shape[1] <= 2:
        with np.errstate(invalid="ignore"):
            logit = wide[:, -1] - wide[:, 0] if wide.shape[1] == 2 else wide[:, 0]
        posed = [_known(y.reshape(-1), logit)]
    else:
        odds = _log_odds(wide)
        posed = [_known((y.reshape(-1) == label).astype(float), odds[:, label]) for label in range(wide.shape[1])]
    usable = [problem for problem in posed if 0 < int(problem.positive.sum()) < len(problem.rows)]
    if not usable:
        what = f"{metric} needs positive and negative rows, and all have the same label"
        raise DataError.at("metric", what, "Judge more rows, or choose another split")
    return usable


def area_under_roc(problem: Problem, counts: Floats) -> Floats:
    """Return the share of pairs of a positive and a negative row that are in order, ties counting half.

    Args:
        problem: with n rows.
        counts: [samples, n], how often each row counts.

    Returns:
        [samples]; NaN where one kind of row does not occur.
    """
    positive, negative = _by_score(problem, counts)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore"):
        return np.asarray((positive * (below + negative / 2)).sum(1) / pairs)


def average_precision(problem: Problem, counts: Floats) -> Floats:
    """Return the mean precision over the positive rows, rows of equal score taken together; as `area_under_roc`."""
    positive, negative = (part[:, ::-1] for part in _by_score(problem, counts))
    found = np.cumsum(positive, axis=1)
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(found / (found + np.cumsum(negative, axis=1)))
        return np.asarray((positive * precision).sum(1) / found[:, -1])


def hits_at(k: int) -> Score:
    """Return the metric of OGB's link prediction: the share of positive rows that score above the k-th best negative.

    With fewer than k negative rows it is 1, as there (Hu et al. 2020, "Open Graph Benchmark").
    """

    def hits(problem: Problem, counts: Floats) -> Floats:
        positive, negative = (part[:, ::-1] for part in _by_score(problem, counts))
        # A tie group stands above the k-th negative while fewer than k negatives have been met, itself included.
        above = np.cumsum(negative, axis=1) < k
        with np.errstate(invalid="ignore"):
            return np.asarray((positive * above).sum(1) / positive.sum(1))

    return hits


def _known(label: NDArray[Any], scores: Floats) -> Problem:
    rows = np.flatnonzero(~np.isnan(label.astype(np.float64)))
    positive = label[rows] == 1
    given = scores[rows]
    worst = np.where(positive, -np.inf, np.inf)
    return Problem(rows, positive, np.where(np.isnan(given), worst, given))


def _log_odds(scores: Floats) -> Floats:
    """Return log p / (1 - p) of the softmax of each row, NaN in a row that holds NaN."""
    from scipy.special import logsumexp

    with np.errstate(invalid="ignore"):
        columns = [scores[:, k] - logsumexp(np.delete(scores, k, axis=1), axis=1) for k in range(scores.shape[1])]
    return np.stack(columns, axis=1)


def _by_score(problem: Problem, counts: Floats) -> tuple[Floats, Floats]:
    """Count positive and negative rows of each distinct score, ascending: twice [samples, scores]."""
    order = np.argsort(problem.scores, kind="stable")
    ranked = problem.scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    weight = counts[:, order]
    positive = np.add.reduceat(weight * problem.positive[order], starts, axis=1)
    return positive, np.add.reduceat(weight, starts, axis=1) - positive
