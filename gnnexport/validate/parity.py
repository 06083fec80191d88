"""Compare outputs with what they should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.golden import Flips
from gnnexport.bundle.manifest import TOLERANCE
from gnnexport.bundle.report_schema import ParityResult


@dataclass(frozen=True)
class Parity:
    """How far outputs are from what they should be.

    Args:
        max_abs_error: largest difference; infinite when an output is missing or of another shape, or when only one
            side is finite.
        max_rel_error: the same relative to the largest magnitude expected, or absolute when all expected are zero.
        moved: rows whose largest entry is another one.
        near_ties: rows in which the margin of the top two is within twice the error. No other row can move, so
            `moved` never exceeds it.
        flipped: rows that differ by more, as levels on a border explain; nothing else counts them.
    """

    max_abs_error: float
    max_rel_error: float
    moved: int
    near_ties: int
    flipped: int = 0

    def merge(self, other: Parity) -> Parity:
        """Combine two comparisons: the larger errors, the sums of counts."""
        return Parity(
            max(self.max_abs_error, other.max_abs_error),
            max(self.max_rel_error, other.max_rel_error),
            self.moved + other.moved,
            self.near_ties + other.near_ties,
            self.flipped + other.flipped,
        )

    def record(self, tolerance: float, cases: int) -> ParityResult:
        """Give what the report holds of it; only for errors that are finite."""
        return ParityResult(
            max_abs_error=self.max_abs_error,
            max_rel_error=self.max_rel_error,
            tolerance=tolerance,
            moved=self.moved,
            near_ties=self.near_ties,
            flipped=self.flipped or None,
            cases=cases,
        )


EXACT = Parity(0.0, 0.0, 0, 0)


def compare_outputs(
    expected: Mapping[str, NDArray[Any]],
    actual: Mapping[str, NDArray[Any]],
    rows: NDArray[np.int64] | None = None,
    whole: Mapping[str, NDArray[Any]] | None = None,
    flips: Flips | None = None,
) -> Parity:
    """Compare every expected output with what came out.

    Args:
        expected: by output name, `[n, …]`.
        actual: by output name, all rows.
        rows: int64 [n], the rows of `actual` that `expected` holds; `None` for all.
        whole: by output name, what relative errors are relative to; `expected` itself unless given.
        flips: rows that levels on a border explain; `None` where nothing is quantised.
    """
    total = EXACT
    for name, wanted in expected.items():
        if name not in actual:
            return Parity(np.inf, np.inf, 0, 0)
        if rows is not None and len(actual[name]) <= rows.max(initial=-1):
            return Parity(np.inf, np.inf, 0, 0)
        given = actual[name] if rows is None else actual[name][rows]
        scale = wanted if whole is None else whole[name]
        kept = explained(wanted, given, scale, flips)
        compared = compare_arrays(wanted[~kept], given[~kept], scale) if kept.any() else None
        compared = compare_arrays(wanted, given, scale) if compared is None else compared
        total = total.merge(replace(compared, flipped=int(kept.sum())))
    return total


def explained(
    expected: NDArray[Any], actual: NDArray[Any], whole: NDArray[Any], flips: Flips | None
) -> NDArray[np.bool_]:
    """Return which rows differ by more than the tolerance as levels on a border explain; none where too many do.

    Args:
        expected: `[n, …]`.
        actual: likewise.
        whole: what errors are relative to.
        flips: how many rows may differ, and by how much.
    """
    none = np.zeros(len(expected) if expected.ndim else 0, bool)
    if flips is None or expected.shape != actual.shape or expected.size == 0 or not expected.ndim:
        return none
    scale = _largest_magnitude(whole) or 1.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64)).reshape(len(expected), -1)
        error = difference.max(axis=1) / scale
        off = (error > TOLERANCE) & (error <= flips.error)
    return off if off.sum() <= flips.allowed(len(off)) else none


def compare_arrays(expected: NDArray[Any], actual: NDArray[Any], whole: NDArray[Any] | None = None) -> Parity:
    """Compare one output; the last axis holds the classes. Relative errors are relative to `whole`, where given."""
    if expected.shape != actual.shape:
        return Parity(np.inf, np.inf, 0, 0)
    if expected.size == 0:
        return EXACT
    wanted, given = expected.astype(np.float64), actual.astype(np.float64)
    error = _largest_difference(wanted, given)
    scale = _largest_magnitude(expected if whole is None else whole)
    relative = error / scale if scale > 0 else error
    if wanted.ndim != 2 or wanted.shape[1] < 2:
        return Parity(error, relative, 0, 0)
    top = np.partition(wanted, -2, axis=1)[:, -2:]
    with np.errstate(invalid="ignore"):
        near = ~(top[:, 1] - top[:, 0] > 2 * error)
    moved = wanted.argmax(axis=1) != given.argmax(axis=1)
    return Parity(error, relative, int(np.sum(moved)), int(np.sum(near)))


def _largest_magnitude(values: NDArray[Any]) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _largest_difference(wanted: NDArray[np.float64], given: NDArray[np.float64]) -> float:
    with np.errstate(invalid="ignore"):
        difference = np.abs(wanted - given)
    same = (wanted == given) | (np.isnan(wanted) & np.isnan(given))
    difference = np.where(same, 0.0, difference)
    return float(np.where(np.isnan(difference), np.inf, difference).max())
