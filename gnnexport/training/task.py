"""What a model is for, and how it was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from gnnexport.errors import DataError
from gnnexport.measure.metrics import default_metric, find, higher_is_better
from gnnexport.program.inputs import Level
from gnnexport.training.kinds import LossName, TaskKind

Loss = Callable[[Tensor, Tensor], Tensor]

CLASS_LOSSES: tuple[LossName, ...] = ("cross-entropy", "nll")
"""Losses of one score for each class; the others compare one number with one target."""

LOSSES: dict[LossName, Loss] = {
    # Log-probabilities are a fixed point of log-softmax: cross-entropy serves models that end in it, too.
    "cross-entropy": functional.cross_entropy,
    "nll": functional.nll_loss,
    "bce": functional.binary_cross_entropy_with_logits,
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
}


@dataclass(frozen=True)
class Task:
    """What is to be learned, with its metric and training settings.

    Args:
        metric: a name known to `gnnexport.measure.metrics`.
        loss: applied to the output of labelled training rows.
        lr: step size of Adam.
        weight_decay: of Adam, on every parameter.
        epochs: at most this many in retraining.
        patience: epochs without a better validation metric before training stops.
    """

    kind: TaskKind = "node-classification"
    metric: str = "accuracy"
    loss: LossName = "cross-entropy"
    lr: float = 0.01
    weight_decay: float = 5e-4
    epochs: int = 200
    patience: int = 50

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value of the metric is better."""
        return higher_is_better(self.metric)


def infer_task(
    level: Level,
    y: Tensor | None,
    width: int | None = None,
    *,
    kind: TaskKind | None = None,
    metric: str | None = None,
    loss: LossName | None = None,
    **settings: Any,
) -> Task:
    """Return a task, filling in what nobody said from the data and the model.

    Args:
        level: what a row of the labels is about.
        y: labels as `GraphData` holds them, if there are any.
        width: columns of the model's output, 1 when it has no second axis; `None` when it is not known.
        kind: as the user names it.
        metric: likewise.
        loss: likewise.
        settings: further fields of `Task`.

    Raises:
        DataError: a kind that the labels are not of.
        SpecError: no such metric.
    """
    chosen = infer_kind(level, y) if kind is None else kind
    _check_kind(chosen, level, y)
    name = default_metric(chosen, y) if metric is None else find(metric).name
    return Task(kind=chosen, metric=name, loss=loss or loss_for(chosen, y, width), **settings)


def infer_kind(level: Level, y: Tensor | None) -> TaskKind:
    """Tell the kind of task from the labels: whole numbers and several labels of 0 and 1 are classes."""
    if level == "pair":
        return "link-prediction"
    regression = y is not None and y.is_floating_point() and not _several_labels(y)
    if level == "graph":
        return "graph-regression" if regression else "graph-classification"
    return "node-regression" if regression else "node-classification"


def loss_for(kind: TaskKind, y: Tensor | None = None, width: int | None = None) -> LossName:
    """Return the loss of a task when nobody names one; for the arguments see `infer_task`."""
    if kind.endswith("regression"):
        return "mse"
    several = y is not None and y.dim() == 2 and y.shape[1] > 1
    one_logit = width == 1 or (kind == "link-prediction" and width != 2)
    return "bce" if several or one_logit else "cross-entropy"


def check_logits(task: Task, output: Tensor, name: str) -> None:
    """Refuse probabilities where the metric takes the sign of a logit: to it every row would be of class 1.

    Args:
        task: with the metric.
        output: float [rows] or [rows, columns].
        name: of the model, for the message.

    Raises:
        DataError: all answers lie between 0 and 1.
    """
    reads = find(task.metric).reads
    signs = reads == "labels" or (reads == "class" and (output.dim() == 1 or output.shape[1] == 1))
    if not signs or not bool(((output >= 0) & (output <= 1)).all()) or not bool(output.any()):
        return
    what = f"answers only with numbers from 0 to 1, but {task.metric} takes logits, which are positive for class 1"
    mend = 'Leave the sigmoid at its end out, or set metric = "roc-auc" under [task], which reads the order alone'
    raise DataError.at(name, what, mend)


def compute_loss(name: LossName, output: Tensor, y: Tensor) -> Tensor:
    """Return the mean loss of some rows; a label or target that is not known (NaN) has no part in it.

    Args:
        name: of the loss.
        output: float [rows] or [rows, columns].
        y: labels of the same rows; see `GraphData`.

    Raises:
        DataError: shapes that the loss would misread: [rows, 1] against [rows] compares every row with every
            other unless it is brought into line, and one score for each class needs two classes.
    """
    where = "[training] loss"
    if name in CLASS_LOSSES:
        if output.dim() != 2 or output.shape[1] < 2 or y.dim() != 1:
            what = f"{name} wants scores [rows, classes] and one class a row, not {_sizes(output)} and {_sizes(y)}"
            raise DataError.at(where, what, "Use bce for one logit or several labels, mse or l1 for numbers")
        return LOSSES[name](output, y.long())
    values = output[:, 0] if output.dim() == 2 and output.shape[1] == 1 else output
    target = y[:, 0] if y.dim() == 2 and y.shape[1] == 1 else y
    if values.shape != target.shape:
        what = f"{name} wants one number for each target, not {_sizes(output)} for {_sizes(y)}"
        raise DataError.at(where, what, "Use cross-entropy for scores of classes, or give as many targets as outputs")
    known = ~target.isnan()
    if not bool(known.all()):
        values, target = values[known], target[known]
    return LOSSES[name](values, target.to(values.dtype))


def _check_kind(kind: TaskKind, level: Level, y: Tensor | None) -> None:
    if y is None:
        return
    wanted = {"node": "node", "graph": "graph", "link": "pair"}[kind.partition("-")[0]]
    if wanted != level:
        what = f"is {kind}, which answers for each {wanted}, but the data has labels for each {level}"
        raise DataError.at("[task] kind", what, f'Write kind = "{infer_kind(level, y)}"')
    if kind.endswith("regression"):
        return
    if y.is_floating_point() and not _several_labels(y) and not _zero_or_one(y):
        what = f"is {kind}, but the labels are not classes: {_sizes(y)} numbers besides 0 and 1"
        raise DataError.at("[task] kind", what, f'Write kind = "{infer_kind(level, y)}", or number the classes 0, 1, …')


def _several_labels(y: Tensor) -> bool:
    return y.dim() == 2 and y.shape[1] > 1 and _zero_or_one(y)


def _zero_or_one(y: Tensor) -> bool:
    return bool(((y == 0) | (y == 1) | y.isnan()).all())


def _sizes(tensor: Tensor) -> str:
    return str(list(tensor.shape))
