"""What a training run does besides following the loss; the plain run does nothing more."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gnnexport.program.program import Program
from gnnexport.training.feeding import Feed


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

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss of a step."""
        return None

    def project(self) -> None:
        """Bring parameters back to where they may be, after a step."""

    def admits(self) -> bool:
        """Tell whether the weights as they are may be the best of the run; asked at first and after each epoch."""
        return True
