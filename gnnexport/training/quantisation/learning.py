"""Learn steps and widths together with the weights, and re-tune steps once widths stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnnexport.program.dialect.quantize import LEAST_STEP, MOST_BITS, nearest_groups
from gnnexport.program.graphs import args_of
from gnnexport.program.program import Program
from gnnexport.program.quantised import Quantiser, quantisers
from gnnexport.program.values import body_values
from gnnexport.training.feeding import Feed
from gnnexport.training.quantisation.widths import Learned, Target, learned_widths, mean_bits
from gnnexport.training.regime import Regime


@dataclass(frozen=True)
class Rates:
    """Step sizes of Adam for what quantisers learn.

    Args:
        bits: of widths.
        steps: of step sizes, as a share of the middle one of each quantiser.
    """

    bits: float = 0.1
    steps: float = 0.02


class Learning(Regime):
    """Training of a quantised Program.

    Args:
        rates: of steps and bits.
        target: that widths are pressed to; `None` leaves the widths as they are.
        penalty: strength of the pressure.
    """

    def __init__(self, rates: Rates, target: Target | None = None, penalty: float = 1.0) -> None:
        self._rates = rates
        self._target = target
        self._strength = penalty
        self._quantisers: list[Quantiser] = []
        self._maps: list[Learned] = []
        self._scales: list[float] = []
        self._feed: Feed | None = None
        self.trace: list[float] = []

    def begin(self, program: Program, feed: Feed) -> None:
        """Find the quantisers of the Program and fix what is not learned."""
        program.annotate()
        self._feed = feed
        self._quantisers = quantisers(program)
        learn = self._target is not None
        for item in self._quantisers:
            item.bits.requires_grad_(learn and _has_learned_width(item))
            item.step.requires_grad_(not (item.raw and item.what == "input"))
        self._look(program)
        self._scales = [scale_of(item.quantiser) for item in self._maps]
        self.trace = [mean_bits(self._maps, whole=False)]

    def groups(self, program: Program, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the weights as the task has them, and a group without decay for what each quantiser learns."""
        own = {id(tensor) for item in self._quantisers for tensor in (item.step, item.bits)}
        weights = [item for item in program.body.parameters() if item.requires_grad and id(item) not in own]
        found: list[dict[str, Any]] = [{"params": weights, "lr": lr, "weight_decay": weight_decay}]
        for item in self._quantisers:
            if item.step.requires_grad:
                rate = self._rates.steps * float(item.step.detach().median())
                found.append({"params": [item.step], "lr": rate, "weight_decay": 0.0})
            if item.bits.requires_grad:
                found.append({"params": [item.bits], "lr": self._rates.bits, "weight_decay": 0.0})
        return found

    def begin_epoch(self, program: Program) -> None:
        """Count anew how many rows take each group."""
        if self._target is not None and any(item.quantiser.by == "nearest" for item in self._maps):
            self._look(program)

    def _look(self, program: Program) -> None:
        counts = count_rows(program, self._feed, self._quantisers)
        self._maps = learned_widths(program, counts)

    def penalty(self) -> Tensor | None:
        """Return the pressure on widths: one-sided, its gradient the excess times what a bit is worth.

        A node's own error has a gradient of about the size of its features; so has the pressure, whatever the number
        of nodes.
        """
        if self._target is None or not self._maps:
            return None
        excess = float(self._target.excess(self._maps).detach())
        if excess <= 0:
            return None
        total = None
        for item, scale in zip(self._maps, self._scales, strict=True):
            share = item.weights / item.weights.max().clamp(min=1)
            if not item.quantiser.local:  # the task's gradient is a mean over all rows
                share = item.counts / item.counts.sum().clamp(min=1)
            press = self._strength * excess * scale * (item.quantiser.bits * share).sum()
            total = press if total is None else total + press
        return total

    def project(self) -> None:
        """Keep steps positive and widths from 1 to 8."""
        with torch.no_grad():
            for item in self._quantisers:
                item.step.clamp_(min=LEAST_STEP)
                item.bits.clamp_(1, MOST_BITS)

    def admits(self) -> bool:
        """Tell whether the widths meet the target."""
        if self._target is None:
            return True
        self.trace.append(mean_bits(self._maps, whole=False))
        return self._target.is_met(self._maps)


def _has_learned_width(item: Quantiser) -> bool:
    return item.what == "input" and not item.raw and item.by != "columns"


def scale_of(item: Quantiser) -> float:
    """Return what a bit of a row is about worth: its middle reach, as the error of a clipped row tells."""
    if not item.local:
        return 1.0
    return float((item.step.detach() * (2 ** item.bits.detach())).median()) / 4


def count_rows(program: Program, feed: Feed | None, found: Sequence[Quantiser]) -> dict[str, Tensor]:
    """Return how many rows take each group, by name of the quantiser, on the training rows of some data."""
    nearest = [item for item in found if item.by == "nearest"]
    if not nearest or feed is None:
        return {}
    was_training = program.training
    program.train(False)
    counts = {item.name: torch.zeros_like(item.step.detach()) for item in nearest}
    nodes = {item.name: item.node for item in quantisers(program)}
    for part in feed.judged("train"):
        wanted = [args_of(nodes[item.name])[0] for item in nearest]
        values = body_values(program, part.inputs, wanted, part.structure)
        for item in nearest:
            rows = values[args_of(nodes[item.name])[0]]
            group = nearest_groups(rows, item.step.detach(), item.bits.detach(), item.signed)
            counts[item.name] += torch.bincount(group, minlength=len(item.step))
    program.train(was_training)
    return counts


def histogram(maps: Sequence[Learned]) -> Mapping[int, int]:
    """Return how many rows have each width, narrow ones first."""
    found: dict[int, int] = {}
    for item in maps:
        for width, count in zip(
            item.quantiser.bits.detach().round().long().tolist(), item.counts.tolist(), strict=True
        ):
            found[width] = found.get(width, 0) + int(count)
    return dict(sorted(found.items()))
