"""How sure a measured difference is: 95 % intervals of paired drops and of ratios of medians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval.

    Args:
        value: the point estimate.
        low: lower end; `None`, like `high`, when too little was measured to say.
        high: upper end.
        method: how the interval was made, in words for the report.
    """

    value: float
    low: float | None
    high: float | None
    method: str

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Both ends, or `None`."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def paired_drop(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """Estimate how many right answers were lost, from the same rows judged before and after.

    The interval is that of Bonett and Price (2012, "Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data"): it counts the rows on which the two disagree, as McNemar's
    test does, and unlike the bootstrap it stays honest when there are few or none of them.

    Args:
        before: bool [n], row was right.
        after: bool [n], the same rows.
    """
    lost, won, n = _discordant(before, after)
    p_lost, p_won = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    half = _Z95 * math.sqrt((p_lost + p_won - (p_lost - p_won) ** 2) / (n + 2))
    centre = p_lost - p_won
    method = f"paired adjusted Wald (Bonett-Price), {lost} lost and {won} won of {n} rows taken as independent"
    return Interval((lost - won) / n, max(-1.0, centre - half), min(1.0, centre + half), method)


def deciding_sample(before: NDArray[np.bool_], after: NDArray[np.bool_], budget: float) -> int | None:
    """Return how many rows would bring the interval of `paired_drop` clear of a budget.

    Supposes that rows keep disagreeing at the rate seen. `None` when the drop equals the budget, so that no
    number of rows would decide.
    """
    lost, won, n = _discordant(before, after)
    p_lost, p_won = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    distance = abs((lost - won) / n - budget)
    if distance == 0:
        return None
    return max(1, math.ceil(_Z95**2 * (p_lost + p_won - (p_lost - p_won) ** 2) / distance**2))


def ratio_of_medians(value: float, numerator_blocks: Sequence[float], denominator_blocks: Sequence[float]) -> Interval:
    """Put an interval around a ratio of medians, from the medians of blocks that were timed side by side.

    Block i of one contender ran next to block i of the other, so slow drift of the machine cancels in their
    ratio; Student's t on the logarithms of these ratios gives the width, also for three blocks.

    Args:
        value: the point estimate.
        numerator_blocks: medians in ms, one a block.
        denominator_blocks: medians in ms of the blocks beside them.
    """
    count = min(len(numerator_blocks), len(denominator_blocks))
    if count < 2:
        return Interval(value, None, None, "one block only: no interval")
    from scipy.special import stdtrit

    pairs = zip(numerator_blocks[:count], denominator_blocks[:count], strict=True)
    logs = np.log([above / below for above, below in pairs])
    half = float(stdtrit(count - 1, 0.975)) * float(np.std(logs, ddof=1)) / math.sqrt(count)
    method = f"Student's t on log ratios of {count} alternating blocks"
    return Interval(value, value * math.exp(-half), value * math.exp(half), method)


def _discordant(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[int, int, int]:
    if before.shape != after.shape or before.ndim != 1 or len(before) == 0:
        raise ValueError(f"need two equal, non-empty vectors, not {before.shape} and {after.shape}")
    return int(np.sum(before & ~after)), int(np.sum(~before & after)), len(before)
