"""How many channels of each group stay: rounded, shared out between its segments, and solved for a global budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]

State = tuple[int, ...]
"""A level for each group; the first level of each keeps everything."""

TOLERANCE = 0.02
"""A budget is met when what is left differs from what was asked for by at most this share."""


def round_up(count: float, multiple: int, most: int) -> int:
    """Return the smallest multiple that is at least `count`, at least one, at most `most`."""
    # The products of shares such as 0.07 and 100 are a hair too large.
    wanted = math.ceil(round(count, 6))
    return min(most, max(1, math.ceil(wanted / multiple)) * multiple)


def allocate(
    order: Places, segments: Sequence[Places], ties: Sequence[Sequence[int]], total: int, multiple: int
) -> Places:
    """Choose about `total` units, the first ones in order as far as widths allow, ascending.

    Each segment keeps at least one unit, tied segments keep equally many, and a width is a multiple, tied segments
    together, unless it is all there is.

    Args:
        order: units, the most important first.
        segments: the units of each.
        ties: segments of equal width; each stands in one tie.
        total: units to keep.
        multiple: of widths.
    """
    first = set(order[:total].tolist())
    wanted = [float(np.mean([sum(unit in first for unit in segments[s].tolist()) for s in tie])) for tie in ties]
    most = [len(segments[tie[0]]) for tie in ties]
    steps = [multiple // math.gcd(multiple, len(tie)) for tie in ties]
    kept = [
        min(width, max(step, math.floor(count / step) * step))
        for width, step, count in zip(most, steps, wanted, strict=True)
    ]
    while sum(count * len(tie) for count, tie in zip(kept, ties, strict=True)) < total:
        open_ties = [place for place in range(len(ties)) if kept[place] < most[place]]
        place = max(open_ties, key=lambda place: (wanted[place] - kept[place], -place))
        kept[place] = min(most[place], kept[place] + steps[place])
    counts = [0] * len(segments)
    for count, tie in zip(kept, ties, strict=True):
        for segment in tie:
            counts[segment] = count
    return take(order, segments, counts)


def take(order: Places, segments: Sequence[Places], counts: Sequence[int]) -> Places:
    """Return the first units in order of each segment, so many of each, ascending."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    chosen = [units[np.argsort(rank[units])][:count] for units, count in zip(segments, counts, strict=True)]
    return np.sort(np.concatenate(chosen))


def descent(
    errors: Sequence[Sequence[float]], cost: Callable[[State], float], allowed: Callable[[State], bool]
) -> list[State]:
    """Return a way from all units kept to as few as possible: at each step what loses least error per cost saved.

    Args:
        errors: of each group at each of its levels, the first of which keeps everything.
        cost: of a level for each group; falls with each.
        allowed: whether there may be these levels.
    """
    state: State = (0,) * len(errors)
    steps = [state]
    price = cost(state)
    while True:
        best: tuple[float, State, float] | None = None
        for place, levels in enumerate(errors):
            after = (*state[:place], state[place] + 1, *state[place + 1 :])
            if after[place] == len(levels) or not allowed(after):
                continue
            lost = max(0.0, levels[after[place]] - levels[state[place]])
            rate = lost / max(price - cost(after), 1e-12)
            if best is None or rate < best[0]:
                best = rate, after, cost(after)
        if best is None:
            return steps
        _, state, price = best
        steps.append(state)


def polish(
    starts: Sequence[State],
    errors: Sequence[Sequence[float]],
    cost: Callable[[State], float],
    allowed: Callable[[State], bool],
    target: float,
) -> State:
    """Return a state that meets a target, or comes nearest to it, and differs from one given in one group at most.

    Of several that meet it, the one that loses least error.

    Args:
        starts: states to look around of.
        errors: of each group at each of its levels.
        cost: of a state.
        allowed: whether there may be a state.
        target: cost wanted.
    """

    def rank(state: State) -> tuple[float, float]:
        distance = abs(cost(state) - target) / target
        lost = sum(levels[level] for level, levels in zip(state, errors, strict=True))
        return max(distance, TOLERANCE), lost

    around = {
        (*start[:place], level, *start[place + 1 :])
        for start in starts
        for place, levels in enumerate(errors)
        for level in range(len(levels))
    }
    return min(sorted(state for state in around if allowed(state)), key=rank)


def nearest(values: Callable[[int], float], count: int, target: float) -> int:
    """Return the place at which falling values come nearest to a target; looks at few of them."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if values(middle) <= target:
            high = middle
        else:
            low = middle + 1
    if low > 0 and abs(values(low - 1) - target) < abs(values(low) - target):
        return low - 1
    return low
