"""How many channels of each group stay: rounded, shared out between its segments, and solved for a global budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


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
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    chosen = [
        segments[s][np.argsort(rank[segments[s]])][:count]
        for count, tie in zip(kept, ties, strict=True)
        for s in tie
    ]  # fmt: skip
    return np.sort(np.concatenate(chosen))


def descent(
    errors: Sequence[Sequence[float]], cost: Callable[[Sequence[int]], float], allowed: Callable[[Sequence[int]], bool]
) -> list[tuple[int, ...]]:
    """Return a way from all units kept to as few as possible: at each step what loses least error per cost saved.

    Args:
        errors: of each group at each of its levels, the first of which keeps everything.
        cost: of a level for each group; falls with each.
        allowed: whether there may be these levels.
    """
    state = [0] * len(errors)
    steps = [tuple(state)]
    price = cost(state)
    while True:
        best: tuple[float, int, float] | None = None
        for place, levels in enumerate(errors):
            if state[place] + 1 == len(levels):
                continue
            state[place] += 1
            after = cost(state) if allowed(state) else math.inf
            lost = max(0.0, levels[state[place]] - levels[state[place] - 1])
            state[place] -= 1
            if after == math.inf:
                continue
            rate = lost / max(price - after, 1e-12)
            if best is None or rate < best[0]:
                best = rate, place, after
        if best is None:
            return steps
        _, place, price = best
        state[place] += 1
        steps.append(tuple(state))


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
