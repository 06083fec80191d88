"""Pull weights towards sparse ones while they are trained: ADMM and surrogate Lagrangian relaxation (SLR).

Weights W are to be equal to sparse ones Z. The loss gets rho/2 |W - Z + L/rho|^2 for each weight, with a multiplier L.
After an epoch, or several where an epoch has few steps, Z becomes the projection of W + L/rho, and L moves along W - Z:
by rho with ADMM, with SLR by a step that shrinks, and only where the augmented loss fell (Gurevin et al., IJCAI 2021;
"Towards Sparsification of Graph Neural Networks", ICCD 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from gnnexport.program.program import Program
from gnnexport.training.feeding import Feed
from gnnexport.training.parts import Part
from gnnexport.training.sparsity.flops import Counted, TrainingFlops
from gnnexport.training.sparsity.projection import Projection

Splitter = Literal["admm", "slr"]

HORIZON = 200
"""M of SLR: the larger, the slower steps shrink."""

DECAY = 0.1
"""r of SLR: how fast the shrinking slows down."""

LEAST_STEPS = 10
"""Between two updates: weights need time to follow, and an epoch on a whole graph is one step."""

Tensors = Mapping[str, Tensor]


class Splitting(Counted):
    """Training that pulls weights towards their projection; the last weights are returned, whatever validation says.

    Args:
        how: multipliers move.
        projection: of weights, at a sparsity.
        sparsity: see there.
        rho: strength of the pull.
        step: first step of multipliers, with SLR.
        flops: where operations are counted.
    """

    def __init__(
        self, how: Splitter, projection: Projection, sparsity: float, rho: float, step: float, flops: TrainingFlops
    ) -> None:
        super().__init__(flops)
        self._how, self._projection, self._sparsity, self._rho = how, projection, sparsity, rho
        self.step = step
        self.updates = 1
        """k of SLR: one more than how often multipliers moved."""
        self.distances: list[float] = []
        """How far weights are from their sparse ones, after each update."""
        self.weights: dict[str, Tensor] = {}
        self.sparse: dict[str, Tensor] = {}
        self.multipliers: dict[str, Tensor] = {}
        self.before: dict[str, Tensor] = {}
        self._loss = 0.0
        self._losses: list[float] = []
        self._since = 0

    def begin(self, program: Program, feed: Feed) -> None:
        """Project the weights as they are."""
        super().begin(program, feed)
        named = dict(program.body.named_parameters())
        masks = self._projection.masks(named, self._sparsity)
        self.weights = {name: named[name] for name in masks}
        self.multipliers = {name: torch.zeros_like(value) for name, value in self._now().items()}
        self.sparse = {name: value * masks[name] for name, value in self._now().items()}
        self.before = self._now()

    def _now(self) -> dict[str, Tensor]:
        """Return the weights as they are; clones, for an optimiser writes into the tensors themselves."""
        return {name: value.detach().clone() for name, value in self.weights.items()}

    def penalty(self) -> Tensor:
        """Return how far weights are from what they are pulled to."""
        return self._pull(self.weights, self.sparse)

    def _pull(self, weights: Tensors, sparse: Tensors) -> Tensor:
        terms = [
            (value - sparse[name] + self.multipliers[name] / self._rho).square().sum()
            for name, value in weights.items()
        ]
        return self._rho / 2 * torch.stack(terms).sum()

    def stepped(self, part: Part) -> None:
        """Count the step."""
        super().stepped(part)
        self._since += 1

    def ended(self, loss: float) -> None:
        """Bring sparse weights and multipliers up to date, once enough steps were taken."""
        self._losses.append(loss)
        if self._since >= LEAST_STEPS:
            self.update(sum(self._losses) / len(self._losses))
            self._losses, self._since = [], 0

    def update(self, loss: float) -> None:
        """Project, and move multipliers.

        Args:
            loss: mean of the epochs since the last update.
        """
        now = self._now()
        if self._how == "admm":
            self.sparse = self._projected(now)
            self._move(now, self.sparse, self._rho)
        else:
            self._surrogate(now, loss)
        self.before, self._loss = now, loss
        self.distances.append(_distance(now, self.sparse))

    def _surrogate(self, now: Tensors, loss: float) -> None:
        """Move multipliers once for the weights and once for the sparse ones, each where the augmented loss fell."""
        old = self.sparse
        gap = _distance(self.before, old)
        fell = loss + float(self._pull(now, old)) < self._loss + float(self._pull(self.before, old))
        if fell or self.updates == 1:
            self._shrink(gap, _distance(now, old))
            self._move(now, old, self.step)
        new = self._projected(now)
        # The loss of the weights is the same on both sides.
        if float(self._pull(now, new)) < float(self._pull(now, old)):
            self._shrink(gap, _distance(now, new))
            self._move(now, new, self.step)
        self.sparse = new

    def _shrink(self, before: float, after: float) -> None:
        self.updates += 1
        power = 1 - 1 / self.updates**DECAY
        ratio = before / after if before > 0 and after > 0 else 1.0
        self.step *= (1 - 1 / (HORIZON * self.updates**power)) * ratio

    def _projected(self, now: Tensors) -> dict[str, Tensor]:
        shifted = {name: value + self.multipliers[name] / self._rho for name, value in now.items()}
        masks = self._projection.masks(shifted, self._sparsity)
        return {name: value * masks[name] for name, value in shifted.items()}

    def _move(self, weights: Tensors, sparse: Tensors, step: float) -> None:
        self.multipliers = {
            name: value + step * (weights[name] - sparse[name]) for name, value in self.multipliers.items()
        }

    def admits(self) -> bool:
        """Keep no weights for their validation: none of them are sparse yet."""
        super().admits()
        return False


def _distance(weights: Tensors, sparse: Tensors) -> float:
    """Return the sum over weights of |W - Z|."""
    return sum(float((value - sparse[name]).norm()) for name, value in weights.items())
