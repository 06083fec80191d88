"""Train and evaluate Programs on a graph or a set of graphs, selecting on the validation rows only."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gnnexport.errors import DataError, UnsupportedError
from gnnexport.measure import drops, metrics
from gnnexport.program.data import GraphData, Split, labelled_rows
from gnnexport.program.program import Program
from gnnexport.training.parts import split_set
from gnnexport.training.task import Task, compute_loss

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

    @property
    def best(self) -> float:
        """Validation metric of the weights that were returned."""
        return self.validation[self.best_epoch]


@dataclass(frozen=True)
class _Part:
    """Data that the Program runs on in one go, and what `prepare` made of its graph."""

    data: GraphData
    structure: tuple[Any, ...]


@dataclass(frozen=True)
class Trainer:
    """Fit Programs to the training rows and judge them on the validation rows.

    One graph is trained on as a whole. Of a set of graphs, only those of the training split are run in training,
    in mini-batches when they are many.

    Args:
        data: the graph or graphs; labels of test rows are never read, whatever it holds.
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
        assert self.data.y is not None
        for split in _SPLITS:
            if not bool((self.data.masks[split] & labelled_rows(self.data.y)).any()):
                what = f"no {self.data.level} of the {split} mask has a label"
                raise DataError.at("data", what, f"Extend y or {split}_mask")

    def evaluate(self, program: Program, split: Split = "val") -> float:
        """Return the task's metric on a split."""
        output, y = self._answers(*self._judged(program, split), split)
        return metrics.evaluate(self.task.metric, y.numpy(), output.numpy())

    def drop(self, before: Program, after: Program, split: Split = "val") -> float:
        """Tell how much worse the task's metric is of one Program than of another on a split; positive is worse."""
        name, given, y = self.task.metric, [], None
        for program in (before, after):
            output, y = self._answers(*self._judged(program, split), split)
            # Refuses labels that do not suit the output, which what is kept of it no longer shows.
            metrics.evaluate(name, y.numpy(), output.numpy())
            given.append(metrics.predictions(name, output.numpy()))
        assert y is not None
        return drops.point_drop(name, y.numpy(), *given)

    def fit(
        self, program: Program, *, seed: int, epochs: int | None = None, lr: float | None = None
    ) -> tuple[Program, History]:
        """Train a copy of the Program and return the best one seen, the given one included.

        Best is the best validation metric, then the lowest validation loss.

        Raises:
            UnsupportedError: when the Program behaves differently in training in ways it cannot reproduce.
            DataError: when the loss does not suit labels and output.
        """
        _check_trainable(program)
        program = program.clone()
        parameters = [item for item in program.body.parameters() if item.requires_grad]
        optimiser = torch.optim.Adam(parameters, lr=lr or self.task.lr, weight_decay=self.task.weight_decay)
        training, validation = self._parts(program, seed)
        metric, loss = self._judge(program, validation, "val")
        history = History(0, [metric], [])
        best, best_epoch, best_state = self._rank(metric, loss), 0, copy.deepcopy(program.body.state_dict())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for epoch in range(1, (self.task.epochs if epochs is None else epochs) + 1):
                history.train_loss.append(self._epoch(program, training, optimiser))
                metric, loss = self._judge(program, validation, "val")
                history.validation.append(metric)
                if self._rank(metric, loss) > best:
                    best, best_epoch = self._rank(metric, loss), epoch
                    best_state = copy.deepcopy(program.body.state_dict())
                elif epoch - best_epoch >= self.task.patience:
                    break
                if self.deadline is not None and time.perf_counter() > self.deadline:
                    self.progress(f"time budget spent at epoch {epoch}")
                    break
                if epoch % 20 == 0:
                    self.progress(f"epoch {epoch}: validation {self.task.metric} {metric:.4f}")
        program.body.load_state_dict(best_state)
        return program.train(False), History(best_epoch, history.validation, history.train_loss)

    @cached_property
    def _validation(self) -> Sequence[GraphData]:
        return split_set(self.data, "val")

    def _parts(self, program: Program, seed: int) -> tuple[list[_Part], list[_Part]]:
        """Return what to train on and what to validate on: of one graph both are the whole, prepared once."""
        validation = self._prepared(program, self._validation)
        if self.data.num_graphs is None:
            return validation, validation
        return self._prepared(program, split_set(self.data, "train", seed=seed)), validation

    def _judged(self, program: Program, split: Split) -> tuple[Program, list[_Part]]:
        """Return a copy that is not in training, with what to run it on."""
        program = program.clone()
        return program, self._prepared(program, self._validation if split == "val" else split_set(self.data, split))

    def _prepared(self, program: Program, parts: Sequence[GraphData]) -> list[_Part]:
        return [_Part(part, program.structure(part.inputs)) for part in parts]

    def _rank(self, metric: float, loss: float) -> tuple[float, float]:
        return (metric if self.task.higher_is_better else -metric), -loss

    def _epoch(self, program: Program, parts: Sequence[_Part], optimiser: torch.optim.Optimizer) -> float:
        """Take a step on each part, in an order of its own, and return the mean loss of the rows."""
        program.train(True)
        total = rows = 0.0
        order = torch.randperm(len(parts)).tolist() if len(parts) > 1 else [0]
        for index in order:
            part = parts[index]
            optimiser.zero_grad(set_to_none=True)
            output, y = self._rows(program.run_body(part.data.inputs, part.structure), part.data, "train")
            loss = compute_loss(self.task.loss, output, y)
            loss.backward()
            optimiser.step()
            total, rows = total + float(loss.detach()) * len(y), rows + len(y)
        return total / rows

    def _judge(self, program: Program, parts: Sequence[_Part], split: Split) -> tuple[float, float]:
        """Return metric and loss over all parts."""
        output, y = self._answers(program, parts, split)
        metric = metrics.evaluate(self.task.metric, y.numpy(), output.numpy())
        return metric, float(compute_loss(self.task.loss, output, y))

    def _answers(self, program: Program, parts: Sequence[_Part], split: Split) -> tuple[Tensor, Tensor]:
        """Return output and labels of the labelled rows over all parts; leaves the Program out of training."""
        program.train(False)
        with torch.no_grad():
            judged = [
                self._rows(program.run_body(part.data.inputs, part.structure), part.data, split) for part in parts
            ]
        output, y = (torch.cat(side) for side in zip(*judged, strict=True))
        return output, y

    def _rows(self, output: Tensor, data: GraphData, split: Split) -> tuple[Tensor, Tensor]:
        """Return output and labels of the labelled rows of a split."""
        assert data.y is not None
        if len(output) != len(data.y):
            what = f"the model answers for {len(output)} rows where there are labels for {len(data.y)}"
            mend = f"Labels are for each {data.level}: give a model that answers for each, or other labels"
            raise DataError.at("data", what, mend)
        mask = data.masks[split] & labelled_rows(data.y)
        return output[mask], data.y[mask]


def _check_trainable(program: Program) -> None:
    mend = "Skip retraining with retrain=false, or "
    if program.training_blocker:
        raise UnsupportedError.at("retraining", program.training_blocker, mend + "change that module")
    if not any(item.requires_grad for item in program.body.parameters()):
        raise UnsupportedError.at("retraining", "no parameter requires a gradient", mend + "unfreeze some")
