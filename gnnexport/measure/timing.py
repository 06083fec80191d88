"""Time contenders side by side, in blocks that alternate between them.

Strict alternation of single runs distorts models of a few milliseconds, because the thread pool of one
engine keeps spinning while the other runs. So: blocks of runs, the first ones of each block dropped, a pause
between blocks, and every other round in reverse order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gnnexport.measure.intervals import Interval, ratio_of_medians

_OWN_WARM_UP_S = 2.0
"""A run this long is its own warm-up: what lingers of the other contender is gone in milliseconds."""


@dataclass(frozen=True)
class Timing:
    """What repeated runs took.

    Args:
        p50_ms: median of the runs kept.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        runs: number of runs kept.
        block_medians_ms: median of each block, in the order they ran.
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    runs: int
    block_medians_ms: tuple[float, ...]


@dataclass(frozen=True)
class _Plan:
    block: int
    drop: int


def compare(
    contenders: Mapping[str, Callable[[], object]],
    *,
    budget_s: float = 10.0,
    block: int = 10,
    drop: int = 2,
    pause_s: float = 0.05,
    min_blocks: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Timing]:
    """Time contenders against each other in this process.

    Args:
        contenders: what to run, by name; each runs twice first, to warm up and to be sized.
        budget_s: rounds go on until this much time is spent; slow contenders get shorter blocks.
        block: runs in a block.
        drop: runs dropped at the start of a block.
        pause_s: rest between blocks.
        min_blocks: rounds done even when they exceed the budget.
        clock: seconds, for tests.
        sleep: for tests.
    """
    if not contenders:
        return {}
    start = clock()
    share_s = budget_s / (len(contenders) * min_blocks)
    plans: dict[str, _Plan] = {}
    for name, run in contenders.items():
        first_s = _once(run, clock)
        second_s = first_s if first_s > share_s else _once(run, clock)
        plans[name] = _size(min(first_s, second_s), share_s, block, drop)
    blocks: dict[str, list[list[float]]] = {name: [] for name in contenders}
    rounds = 0
    round_s = 0.0
    while rounds < min_blocks or clock() - start + round_s <= budget_s:
        round_start = clock()
        names = list(contenders) if rounds % 2 == 0 else list(contenders)[::-1]
        for name in names:
            sleep(pause_s)
            plan = plans[name]
            seconds = [_once(contenders[name], clock) for _ in range(plan.block)]
            blocks[name].append(seconds[plan.drop :])
        rounds += 1
        round_s = clock() - round_start
    return {name: _summarise(runs) for name, runs in blocks.items()}


def ratio(slow: Timing, fast: Timing) -> Interval:
    """Return how many times faster `fast` is than `slow`: ratio of medians with its 95 % interval.

    Both have to come from one call of `compare`, so that their blocks ran side by side.
    """
    return ratio_of_medians(slow.p50_ms / fast.p50_ms, slow.block_medians_ms, fast.block_medians_ms)


def _once(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def _size(run_s: float, share_s: float, block: int, drop: int) -> _Plan:
    """Choose the runs of a block so that it fits its share of the budget."""
    fitting = block if run_s <= 0 else int(share_s / run_s)
    if fitting >= block:
        return _Plan(block, min(drop, block - 1))
    if fitting < 3 and run_s >= _OWN_WARM_UP_S:
        return _Plan(1, 0)
    return _Plan(max(3, fitting), 1)


def _summarise(blocks: list[list[float]]) -> Timing:
    runs = np.concatenate([np.asarray(seconds) for seconds in blocks]) * 1000
    p50, p95, p99 = (float(value) for value in np.percentile(runs, [50, 95, 99]))
    medians = tuple(float(np.median(seconds)) * 1000 for seconds in blocks)
    return Timing(p50, p95, p99, len(runs), medians)
