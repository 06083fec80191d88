"""Sparse training: weights are sparse from the first step, and entries change places while they are trained.

At some steps the smallest active entries of each weight are dropped, and as many that were zero become active: those of
the largest gradient (RigL: Evci et al., ICML 2020), or any (SET: Mocanu et al., 2018). They begin at zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gnnexport.program.program import Program
from gnnexport.training.feeding import Feed, WholeFeed
from gnnexport.training.parts import Part
from gnnexport.training.sampling import SampledFeed
from gnnexport.training.sparsity.flops import Counted, TrainingFlops
from gnnexport.training.sparsity.patterns import Pattern, best_units, units_of
from gnnexport.training.sparsity.weights import Weight, laid_out
from gnnexport.training.sparsity.zeros import clear

Grower = Literal["rigl", "set"]

LAST_DEATH = 0.005
"""Share of entries that would be dropped at the very last step."""

ENOUGH_ROWS = 1024
"""Gradients of mini-batches with fewer rows are averaged over several of them before they decide."""

UPDATES = 20
"""Of places in a run, unless told how often."""

LEAST_EVERY = 5


@dataclass(frozen=True)
class Growth:
    """How places change.

    Args:
        how: they are found.
        pattern: of entries that are active.
        epochs: of the run.
        every: so many steps; by default some twenty times in a run.
        death: share of active entries that is dropped at first; falls along a cosine.
        stop: share of the steps after which places stay.
        seed: of draws, with `set`.
    """

    how: Grower
    pattern: Pattern
    epochs: int
    every: int | None = None
    death: float = 0.5
    stop: float = 0.75
    seed: int = 0


class Growing(Counted):
    """Training of sparse weights whose active entries change places.

    Args:
        growth: see there.
        weights: of the Program.
        masks: by name, of the shape of the parameter: what is active at first.
        flops: where operations are counted.
    """

    def __init__(
        self, growth: Growth, weights: Sequence[Weight], masks: Mapping[str, Tensor], flops: TrainingFlops
    ) -> None:
        super().__init__(flops)
        self.growth = growth
        self.weights = weights
        self.masks = {name: mask.clone() for name, mask in masks.items()}
        self.fired = {name: mask.clone() for name, mask in masks.items()}
        """All entries that were ever active."""
        self.changes = 0
        self.steps = 0
        self._born = False
        self._all_steps = 1
        self._every = 1
        self._averaged = 1
        self._generator = torch.Generator().manual_seed(growth.seed)
        self._values: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._optimiser: torch.optim.Optimizer | None = None

    @property
    def coverage(self) -> float:
        """Share of all entries that were ever active."""
        return sum(int(item.sum()) for item in self.fired.values()) / sum(item.numel() for item in self.fired.values())

    def begin(self, program: Program, feed: Feed) -> None:
        """Leave only what is active, and plan the steps at which places change."""
        super().begin(program, feed)
        self._values = {name: program.body.get_parameter(name) for name in self.masks}
        with torch.no_grad():
            for name, value in self._values.items():
                value.masked_fill_(~self.masks[name], 0.0)
        self._count_active()
        steps, rows = _steps_of(feed)
        self._all_steps = max(1, steps * self.growth.epochs)
        self._every = self.growth.every or max(LEAST_EVERY, self._all_steps // UPDATES)
        if steps > 1:
            self._averaged = min(self._every, steps, math.ceil(ENOUGH_ROWS / rows))

    def _count_active(self) -> None:
        self.active = {item.label: int(item.matrix(self.masks[item.name]).sum()) for item in self.weights}

    def started(self, optimiser: torch.optim.Optimizer) -> None:
        """Remember the optimiser, whose moments are masked, too."""
        self._optimiser = optimiser

    def project(self) -> None:
        """Bring what is not active back to zero."""
        assert self._optimiser is not None
        for name, value in self._values.items():
            clear(value, ~self.masks[name], self._optimiser)

    def stepped(self, part: Part) -> None:
        """Count the step, collect gradients when places are about to change, and change them when it is time."""
        super().stepped(part)
        self.steps += 1
        self._born = False
        if self.steps > self.growth.stop * self._all_steps:
            return
        left = -self.steps % self._every
        if self.growth.how == "rigl" and left < self._averaged:
            self.meter.dense_gradients(part, self.active)
            for name, value in self._values.items():
                if value.grad is not None:
                    self._gradients[name] = self._gradients.get(name, 0) + value.grad
        if left == 0:
            self._change()
            self._gradients = {}

    def admits(self) -> bool:
        """Tell whether what grew has been trained: right after a change it is zero, and fewer numbers are left."""
        return not self._born

    def settled(self) -> bool:
        """Tell whether places stay: until then weights get worse at every change, and better again."""
        following = (self.steps // self._every + 1) * self._every
        return not self._born and following > self.growth.stop * self._all_steps

    def death(self) -> float:
        """Return the share of active entries that is dropped now."""
        turn = math.cos(math.pi * self.steps / self._all_steps)
        return LAST_DEATH + (max(self.growth.death, LAST_DEATH) - LAST_DEATH) * (1 + turn) / 2

    def _change(self) -> None:
        """Drop and grow in each weight; what was dropped may grow again, from zero like everything that does."""
        assert self._optimiser is not None
        share, pattern = self.death(), self.growth.pattern
        kept, grown = [], []
        for weight in self.weights:
            mask = weight.matrix(self.masks[weight.name])
            size = weight.matrix(self._values[weight.name].detach()).double().square()
            kept.append(dropped(size, mask, pattern, share))
            grown.append(regrown(kept[-1], mask, self._wanted(weight), pattern))
        for name, mask in laid_out(self.weights, kept, self.masks).items():
            clear(self._values[name], ~mask, self._optimiser)
        self.masks = laid_out(self.weights, grown, self.masks)
        for name, mask in self.masks.items():
            self.fired[name] |= mask
        self.changes += 1
        self._born = True
        self._count_active()

    def _wanted(self, weight: Weight) -> Tensor:
        """Return what entries are grown by: squares of gradients, or draws."""
        if self.growth.how == "set":
            return torch.rand(weight.shape, generator=self._generator, dtype=torch.float64)
        gradient = self._gradients.get(weight.name)
        if gradient is None:
            return torch.zeros(weight.shape, dtype=torch.float64)
        return weight.matrix(gradient).double().square()


def dropped(size: Tensor, mask: Tensor, pattern: Pattern, share: float) -> Tensor:
    """Return what is left of a mask without a share of its smallest active units, rounded up.

    Args:
        size: squares of magnitudes, float64 [outputs, inputs].
        mask: bool of that shape.
        pattern: its blocks are dropped as a whole, what its groups hold one by one.
        share: of active units.
    """
    units = Pattern(block=pattern.block)
    active = units_of(mask, units)
    # What is not active is smaller than anything.
    return best_units(torch.where(mask, size, -1.0), units, active - math.ceil(share * active))


def regrown(kept: Tensor, before: Tensor, wanted: Tensor, pattern: Pattern) -> Tensor:
    """Return a mask of as many units as before: those kept, and the most wanted of all others.

    Args:
        kept: bool [outputs, inputs].
        before: what was active, likewise.
        wanted: not negative, float64 of that shape.
        pattern: of what is active; of a group as many are grown as it lost.
    """
    return best_units(torch.where(kept, math.inf, wanted), pattern, units_of(before, pattern))


def _steps_of(feed: Feed) -> tuple[int, int]:
    """Return the steps of an epoch and the training rows of one, about."""
    if isinstance(feed, SampledFeed) and feed.batches is not None:
        total = sum(int(mask.sum()) for split, mask in feed.data.masks.items() if split == "train")
        return max(1, math.ceil(total / feed.batches.rows)), feed.batches.rows
    assert isinstance(feed, WholeFeed)
    parts = [len(part.y) for part in feed.judged("train")]
    return len(parts), max(1, min(parts))
