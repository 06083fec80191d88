"""What a model is for, and how it was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

LossName = Literal["cross-entropy", "nll"]
Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[LossName, Loss] = {
    # Log-probabilities are a fixed point of log-softmax: cross-entropy serves models that end in it, too.
    "cross-entropy": functional.cross_entropy,
    "nll": functional.nll_loss,
}


@dataclass(frozen=True)
class Task:
    """Node classification with its metric and training settings.

    Args:
        metric: a name known to `gnnexport.measure.metrics`.
        loss: applied to the output of labelled training nodes.
        lr: step size of Adam.
        weight_decay: of Adam, on every parameter.
        epochs: at most this many in retraining.
        patience: epochs without a better validation metric before training stops.
    """

    kind: Literal["node-classification"] = "node-classification"
    metric: str = "accuracy"
    loss: LossName = "cross-entropy"
    lr: float = 0.01
    weight_decay: float = 5e-4
    epochs: int = 200
    patience: int = 50
