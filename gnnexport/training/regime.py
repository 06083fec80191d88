"""What a training run does besides following the loss; the plain run does nothing more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnexport.program.program import Program
from gnnexport.training.feeding import Feed
from gnnexport.training.parts import Part


class Regime:
    """Takes part in one training run at a time; subclasses say what they add."""

    def begin(self, program: Program, feed: Feed) -> None:
        """See the Program that is going to be trained, and its data."""

    def groups(self, program: Program, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the parameter groups of Adam.

        Args:
            program: that is going to be trained.
            lr: step size of the task.
            weight_decay: likewise.
        """
        parameters = [item for item in program.body.parameters() if item.requires_grad]
        return [{"params": parameters, "lr": lr, "weight_decay": weight_decay}]

    def started(self, optimiser: torch.optim.Optimizer) -> None:
        """See the optimiser before the first step."""

    def part(self, part: Part) -> Part:
        """Return what a step is taken on in the place of a part of the feed."""
        return part

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss of a step."""
        return None

    def project(self) -> None:
        """Bring parameters back to where they may be, after a step."""

    def stepped(self, part: Part) -> None:
        """See what a step was just taken on, when all is projected; the gradients of that step still stand."""

    def ended(self, loss: float) -> None:
        """See the mean loss of an epoch's rows, without the penalty, at its end."""

    def settled(self) -> bool:
        """Tell whether a run may stop early; patience begins when it may."""
        return True

    def admits(self) -> bool:
        """Tell whether the weights as they are may be the best of the run; asked at first and after each epoch."""
        return True
