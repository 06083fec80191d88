"""Learn from the answers of another model besides the labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from gnnexport.training.kinds import LossName
from gnnexport.training.task import CLASS_LOSSES, compute_loss


@dataclass(frozen=True)
class Objective:
    """What a training step makes small.

    Args:
        loss: against the labels.
        distil: share of the divergence from the teacher's answers, 0 to 1; the rest is the loss.
    """

    loss: LossName
    distil: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.distil <= 1:
            raise ValueError("distil must be from 0 to 1. Write for example distil=0.5")

    def of(self, output: Tensor, y: Tensor, teacher: Tensor | None, guided: Tensor | None = None) -> Tensor:
        """Return the loss of some rows.

        Args:
            output: float [rows] or [rows, columns].
            y: labels of the same rows.
            teacher: its answers for the same rows; `None` without one.
            guided: answers for the rows of the teacher, where these are others.
        """
        if teacher is None or self.distil == 0:
            return compute_loss(self.loss, output, y)
        learned = divergence(self.loss, output if guided is None else guided, teacher)
        if self.distil == 1:
            return learned
        return (1 - self.distil) * compute_loss(self.loss, output, y) + self.distil * learned


def divergence(loss: LossName, output: Tensor, teacher: Tensor) -> Tensor:
    """Return how far answers are from a teacher's, mean over the rows.

    Of class scores the Kullback-Leibler divergence of their softmaxes (Hinton et al., "Distilling the knowledge in a
    neural network", 2015, at temperature 1), of logits the cross-entropy against the teacher's probabilities, of
    numbers the squared difference.
    """
    if loss in CLASS_LOSSES:
        # Log-probabilities are a fixed point of log-softmax.
        ours, theirs = (functional.log_softmax(item, -1) for item in (output, teacher))
        return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    if loss == "bce":
        return functional.binary_cross_entropy_with_logits(output, teacher.sigmoid())
    return functional.mse_loss(output, teacher)
