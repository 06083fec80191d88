"""Solve a budget for the whole model over its groups of channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from torch import Tensor

from gnnexport.program.channels import Channels, Group, Mask
from gnnexport.program.program import Program
from gnnexport.program.widths import WidthCost
from gnnexport.training.budgets import TOLERANCE, Places, State, descent, nearest, polish


@dataclass(frozen=True)
class Candidate:
    """What may become of a group.

    Args:
        group: of channels.
        totals: numbers of units that may stay, falling; the first is all.
        chosen: for each the places of the units.
        errors: share of the readers' squares that each loses.
        least: units that stay at least, given what stays of all groups.
    """

    group: Group
    totals: Sequence[int]
    chosen: Sequence[Places]
    errors: Sequence[float]
    least: Callable[[Mask], int]


@dataclass(frozen=True)
class Limit:
    """What is to be brought down.

    Args:
        program: unpruned.
        channels: of its body.
        inputs: the graph to count on.
        latency: measures a Program, in milliseconds; `None` counts multiply-accumulates.
    """

    program: Program
    channels: Channels
    inputs: Mapping[str, Tensor]
    latency: Callable[[Program], float] | None = None


def solve(candidates: Sequence[Candidate], limit: Limit, target: float) -> tuple[list[Places], str]:
    """Return the units of each group that stay so that a share of the cost is left, and what was reached.

    Groups shrink one step at a time, always the one that loses least error for the multiply-accumulates it saves. Where
    to stop on that way is told by multiply-accumulates, or by measuring the latency of a few stops.

    Args:
        candidates: the groups.
        limit: what counts.
        target: share to come down to.
    """
    work = WidthCost(limit.program, limit.channels, limit.inputs)

    def keep(state: State) -> Mask:
        mask = np.ones(limit.channels.count, bool)
        for level, item in zip(state, candidates, strict=True):
            mask[np.delete(item.group.units, item.chosen[level])] = False
        return mask

    def allowed(state: State) -> bool:
        mask = keep(state)
        return all(
            level == 0 or item.totals[level] >= item.least(mask) for level, item in zip(state, candidates, strict=True)
        )

    way = descent([item.errors for item in candidates], lambda state: work(keep(state)), allowed)
    reached = _work_share(work, keep) if limit.latency is None else _latency_share(limit, keep)
    place = nearest(lambda place: reached(way[place]), len(way), target)
    state = way[place]
    if limit.latency is None:
        around = way[max(place - 1, 0) : place + 2]
        state = polish(around, [item.errors for item in candidates], reached, allowed, target)
    share = reached(state)
    unit = "multiply-accumulates" if limit.latency is None else "the latency"
    note = f"{share:.3f} of {unit} left, {target:g} asked for"
    if share > (1 + TOLERANCE) * target and share <= reached(way[-1]):
        note += ": no more can go"
    return [item.chosen[level] for item, level in zip(candidates, state, strict=True)], note


def _work_share(work: WidthCost, keep: Callable[[State], Mask]) -> Callable[[State], float]:
    """Return what tells the share of the multiply-accumulates that a state has left."""
    return lambda state: work(keep(state)) / work.whole


def _latency_share(limit: Limit, keep: Callable[[State], Mask]) -> Callable[[State], float]:
    """Return what measures the latency of a state as a share of the unpruned Program's; each is measured once."""
    measure = limit.latency
    assert measure is not None
    whole = measure(limit.program.clone())

    @cache
    def share(state: State) -> float:
        program = limit.program.clone()
        smaller = Channels(program, whole_heads=limit.channels.whole_heads)
        smaller.cut(keep(state))
        return measure(program) / whole

    return share
