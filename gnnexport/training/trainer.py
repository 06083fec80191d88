"""Train and evaluate Programs on one graph, selecting on validation nodes only."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gnnexport.errors import DataError, UnsupportedError
from gnnexport.measure import metrics
from gnnexport.program.data import GraphData, Split
from gnnexport.program.program import Program
from gnnexport.training.task import LOSSES, Task

_SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True)
class History:
    """How a training run went.

    Args:
        best_epoch: epoch of the weights that were returned; 0 is the Program as it was given.
        validation: metric after each epoch, from epoch 0 on.
        train_loss: of each epoch, from epoch 1 on.
    """

    best_epoch: int
    validation: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Trainer:
    """Fit Programs to the training nodes and judge them on the validation nodes.

    Args:
        data: the graph; labels of test nodes are never read, whatever it holds.
        task: loss, metric and settings.
        progress: takes a line now and then.
        deadline: `time.perf_counter` value after which training stops at the best so far.
    """

    data: GraphData
    task: Task
    progress: Callable[[str], None] = field(default=lambda line: None)
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.data.y is None or not {"train", "val"} <= set(self.data.masks):
            raise DataError.at(
                "data", "training needs labels and masks for train and val", "Add y, train_mask and val_mask"
            )
        object.__setattr__(self, "data", self.data.hide("test"))
        for split in _SPLITS:
            if not bool((self.data.masks[split] & (self.data.y >= 0)).any()):
                raise DataError.at("data", f"no node of the {split} mask has a label", f"Extend y or {split}_mask")

    def evaluate(self, program: Program, split: Split = "val") -> float:
        """Return the task's metric on a split."""
        with torch.no_grad():
            return self._metric(program.clone().train(False)(self.data.inputs), split)

    def fit(
        self, program: Program, *, seed: int, epochs: int | None = None, lr: float | None = None
    ) -> tuple[Program, History]:
        """Train a copy of the Program and return the best one seen, the given one included.

        Best is the highest validation metric, then the lowest validation loss.

        Raises:
            UnsupportedError: when the Program behaves differently in training in ways it cannot reproduce.
        """
        if program.training_blocker:
            raise UnsupportedError.at(
                "retraining", program.training_blocker, "Skip retraining with retrain=false, or change that module"
            )
        program = program.clone()
        parameters = [item for item in program.body.parameters() if item.requires_grad]
        if not parameters:
            raise UnsupportedError.at(
                "retraining", "no parameter requires a gradient", "Skip retraining with retrain=false, or unfreeze some"
            )
        optimiser = torch.optim.Adam(parameters, lr=lr or self.task.lr, weight_decay=self.task.weight_decay)
        structure = program.structure(self.data.inputs)
        metric, loss = self._judge(program, structure)
        history = History(0, [metric], [])
        best, best_epoch, best_state = (metric, -loss), 0, copy.deepcopy(program.body.state_dict())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for epoch in range(1, (self.task.epochs if epochs is None else epochs) + 1):
                history.train_loss.append(self._step(program, structure, optimiser))
                metric, loss = self._judge(program, structure)
                history.validation.append(metric)
                if (metric, -loss) > best:
                    best, best_epoch, best_state = (metric, -loss), epoch, copy.deepcopy(program.body.state_dict())
                elif epoch - best_epoch >= self.task.patience:
                    break
                if self.deadline is not None and time.perf_counter() > self.deadline:
                    self.progress(f"time budget spent at epoch {epoch}")
                    break
                if epoch % 20 == 0:
                    self.progress(f"epoch {epoch}: validation {self.task.metric} {metric:.4f}")
        program.body.load_state_dict(best_state)
        return program.train(False), History(best_epoch, history.validation, history.train_loss)

    def _step(self, program: Program, structure: tuple[Any, ...], optimiser: torch.optim.Optimizer) -> float:
        program.train(True)
        optimiser.zero_grad(set_to_none=True)
        loss = self._loss(program.run_body(self.data.inputs, structure), "train")
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    def _judge(self, program: Program, structure: tuple[Any, ...]) -> tuple[float, float]:
        program.train(False)
        with torch.no_grad():
            output = program.run_body(self.data.inputs, structure)
            return self._metric(output, "val"), float(self._loss(output, "val"))

    def _rows(self, output: Tensor, split: Split) -> tuple[Tensor, Tensor]:
        assert self.data.y is not None
        mask = self.data.masks[split] & (self.data.y >= 0)
        return output[mask], self.data.y[mask]

    def _loss(self, output: Tensor, split: Split) -> Tensor:
        return LOSSES[self.task.loss](*self._rows(output, split))

    def _metric(self, output: Tensor, split: Split) -> float:
        rows, labels = self._rows(output, split)
        return metrics.evaluate(self.task.metric, labels.numpy(), rows.numpy())
