"""How many entries of each weight stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Distribution = Literal["global", "uniform", "erk"]
"""Chosen among all weights; the same share of each; or more of small ones: Erdős-Rényi with sizes (ERK)."""


def left_of(total: int, sparsity: float) -> int:
    """Return how many of so many stay, one at least."""
    return max(1, round((1 - sparsity) * total))


def uniform(shapes: Sequence[tuple[int, int]], sparsity: float) -> list[int]:
    """Return how many entries of each weight stay: the same share."""
    return [left_of(outputs * inputs, sparsity) for outputs, inputs in shapes]


def erk(shapes: Sequence[tuple[int, int]], sparsity: float) -> list[int]:
    """Return how many entries of each weight stay: in proportion to its outputs plus inputs, at most all of them.

    What dense weights cannot take is shared out among the others (Evci et al., ICML 2020). Rounded by largest
    remainder, so that the sum is that of the whole model but for weights that would lose all they have.
    """
    sizes = [outputs * inputs for outputs, inputs in shapes]
    total = left_of(sum(sizes), sparsity)
    dense: set[int] = set()
    while True:
        sparse = [place for place in range(len(shapes)) if place not in dense]
        budget = total - sum(sizes[place] for place in dense)
        scale = budget / max(1, sum(sum(shapes[place]) for place in sparse))
        over = {place for place in sparse if scale * sum(shapes[place]) > sizes[place]}
        if not over:
            break
        dense |= over
    wanted = [float(size) if place in dense else scale * sum(shapes[place]) for place, size in enumerate(sizes)]
    counts = [math.floor(count) for count in wanted]
    by_remainder = sorted(range(len(counts)), key=lambda place: counts[place] - wanted[place])
    for place in by_remainder[: total - sum(counts)]:
        counts[place] += 1
    return [max(1, count) for count in counts]
