"""Learn steps and widths together with the weights, and re-tune steps once widths stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnnexport.program.dialect.quantize import LEAST_STEP, MOST_BITS, nearest_groups, whole_bits
from gnnexport.program.graphs import args_of
from gnnexport.program.program import Program
from gnnexport.program.quantised import Quantiser, quantisers
from gnnexport.program.values import body_values
from gnnexport.training.feeding import Feed
from gnnexport.training.quantisation.widths import Learned, Target, has_learned_width, learned_widths
from gnnexport.training.regime import Regime

GROWTH = 0.1
"""Of the pressure in an epoch, as a share of the excess."""

NEAR = 0.25
"""Excess that pressure grows by at most: far from the target widths need time rather than more pressure."""


@dataclass(frozen=True)
class Rates:
    """Step sizes of Adam for what quantisers learn.

    Args:
        bits: of widths.
        steps: of step sizes, as a share of what each was at first.
    """

    bits: float = 0.1
    steps: float = 0.02


class Learning(Regime):
    """Training of a quantised Program.

    Args:
        rates: of steps and bits.
        target: that widths have to meet for weights to be kept.
        containers: that rows may be stored in, ascending.
        penalty: strength of the pressure on widths; `None` leaves them as they are.
    """

    def __init__(self, rates: Rates, target: Target, containers: tuple[int, ...], penalty: float | None = None) -> None:
        self._rates = rates
        self._target = target
        self._containers = containers
        self._strength = penalty
        self._program: Program | None = None
        self._feed: Feed | None = None
        self._quantisers: list[Quantiser] = []
        self._maps: list[Learned] = []
        self._scales: list[float] = []
        self._steps: list[_OwnRate] = []
        self._excess = 0.0
        self._grown = 0.0

    def begin(self, program: Program, feed: Feed) -> None:
        """Find the quantisers of the Program and fix what is not learned."""
        program.annotate()
        self._program, self._feed = program, feed
        self._quantisers = quantisers(program)
        for item in self._quantisers:
            item.bits.requires_grad_(self._strength is not None and has_learned_width(item))
            item.step.requires_grad_(not (item.raw and item.what == "input"))
        self._steps = [_OwnRate(item.step) for item in self._quantisers if item.step.requires_grad]
        self._maps = counted_widths(program, feed, self._containers)
        self._scales = [scale_of(item.quantiser) for item in self._maps]

    def groups(self, program: Program, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the weights as the task has them, and a group without decay for what each quantiser learns."""
        own = {id(tensor) for item in self._quantisers for tensor in (item.step, item.bits)}
        weights = [item for item in program.body.parameters() if item.requires_grad and id(item) not in own]
        found: list[dict[str, Any]] = [{"params": weights, "lr": lr, "weight_decay": weight_decay}]
        for step in self._steps:
            found.append({"params": [step.value], "lr": self._rates.steps * step.middle, "weight_decay": 0.0})
        for item in self._quantisers:
            if item.bits.requires_grad:
                found.append({"params": [item.bits], "lr": self._rates.bits, "weight_decay": 0.0})
        return found

    def penalty(self) -> Tensor | None:
        """Return the pressure on widths, whose gradient is the excess over the target times what a bit is worth.

        As long as the target is missed the pressure grows; where widths fall short of it, it is let go. A node's
        own error has a gradient of about the size of its features; so has the pressure, whatever the number of nodes.
        """
        if self._strength is None or not self._maps:
            return None
        pressure = self._strength * (self._excess + self._grown)
        if pressure <= 0:
            return None
        terms = [scale * (item.quantiser.bits * self._share(item)).sum()
                 for item, scale in zip(self._maps, self._scales, strict=True)]  # fmt: skip
        return pressure * torch.stack(terms).sum()

    def _share(self, item: Learned) -> Tensor:
        """Return how much each entry is pressed: like its own gradient, a sum over its rows, or the task's mean."""
        return item.counts if item.quantiser.local else item.counts / max(item.rows, 1.0)

    def project(self) -> None:
        """Keep steps positive and widths from the smallest container to 8."""
        with torch.no_grad():
            for step in self._steps:
                step.project()
            for item in self._maps:
                item.quantiser.bits.clamp_(item.containers[0], MOST_BITS)

    def admits(self) -> bool:
        """Tell whether the widths, in their containers, meet the target."""
        assert self._program is not None
        if any(item.quantiser.by == "nearest" for item in self._maps):
            self._maps = counted_widths(self._program, self._feed, self._containers)
        if not self._maps:
            return True
        self._excess = self._target.excess(self._maps)
        if self._excess > 0:
            self._grown += GROWTH * min(self._excess, NEAR)
        else:
            self._grown *= 1 + self._excess
        return self._excess <= 1e-6


class _OwnRate:
    """A parameter of step sizes, each of which moves at a rate of its own, in proportion to what it was at first."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.middle = float(value.detach().median())
        self._before = value.detach().clone()
        self._rate = self._before / self.middle

    def project(self) -> None:
        """Scale what an update changed, and keep what is left positive."""
        moved = self._before + (self.value - self._before) * self._rate
        self._before = moved.clamp(min=LEAST_STEP)
        self.value.copy_(self._before)


def scale_of(item: Quantiser) -> float:
    """Return what a bit of a row is about worth: its middle reach, as the error of a clipped row tells."""
    if not item.local:
        return 1.0
    return float((item.step.detach() * (2 ** item.bits.detach())).median()) / 4


def counted_widths(program: Program, feed: Feed | None, containers: Sequence[int]) -> list[Learned]:
    """List the hidden features of an annotated Program, with how many rows of some data take each group.

    Args:
        program: with quantisers.
        feed: of data, whose training rows count; without one a group is taken once.
        containers: that rows may be stored in, ascending.
    """
    nearest = [item for item in quantisers(program) if item.by == "nearest"]
    counts = {item.name: torch.zeros_like(item.step.detach()) for item in nearest}
    was_training = program.training
    program.train(False)
    for part in feed.judged("train") if feed is not None and nearest else ():
        values = body_values(program, part.inputs, [args_of(item.node)[0] for item in nearest], part.structure)
        for item in nearest:
            rows = values[args_of(item.node)[0]]
            group = nearest_groups(rows, item.step.detach(), item.bits.detach(), item.signed)
            counts[item.name] += torch.bincount(group, minlength=len(item.step))
    program.train(was_training)
    return learned_widths(program, None if feed is None else counts, containers)


def histogram(maps: Sequence[Learned]) -> Mapping[int, int]:
    """Return how many rows have each width, narrow ones first."""
    found: dict[int, int] = {}
    for item in maps:
        for width, count in zip(whole_bits(item.bits).long().tolist(), item.counts.tolist(), strict=True):
            found[width] = found.get(width, 0) + int(count)
    return {width: count for width, count in sorted(found.items()) if count}
