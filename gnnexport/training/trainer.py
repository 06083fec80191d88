"""Train and evaluate Programs on a graph or a set of graphs, selecting on the validation rows only."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from gnnexport.errors import DataError, Problem, UnsupportedError
from gnnexport.measure import drops, metrics
from gnnexport.program.data import GraphData, Split, labelled_rows
from gnnexport.program.program import Program
from gnnexport.training.distillation import Objective
from gnnexport.training.feeding import Feed, WholeFeed
from gnnexport.training.memory import default_limit
from gnnexport.training.parts import Part, split_set
from gnnexport.training.plan import plan_feed
from gnnexport.training.regime import Regime
from gnnexport.training.sparsity.zeros import KeptZeros
from gnnexport.training.task import Task, compute_loss

_SPLITS: tuple[Split, ...] = ("train", "val")

ROWS_TAUGHT = "; answers of the model before are learned for training nodes alone, as mini-batches run no others"


@dataclass(frozen=True)
class History:
    """How a training run went.

    Args:
        best_epoch: epoch of the weights that were returned; 0 is the Program as it was given.
        validation: metric after each epoch, from epoch 0 on.
        train_loss: of each epoch, from epoch 1 on.
        note: how training was done, where it was not on the whole graph as memory allows, or not to the end.
    """

    best_epoch: int
    validation: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def best(self) -> float:
        """Validation metric of the weights that were returned."""
        return self.validation[self.best_epoch]

    def cut(self, most: int) -> History:
        """Note that time was over before the last of so many epochs, if it was."""
        epoch = len(self.train_loss)
        over = f"until the time budget was spent, at epoch {epoch} of at most {most}"
        return self if epoch == most else replace(self, note=", ".join(filter(None, (self.note, over))))


@dataclass(frozen=True)
class Trainer:
    """Fit Programs to the training rows and judge them on the validation rows.

    One graph is trained on as a whole, or, where a step would take more memory than the limit, on neighbourhoods of
    some nodes at a time. Of a set of graphs, only those of the training split are run in training, in mini-batches
    when they are many.

    Args:
        data: the graph or graphs; labels of test rows are never read, whatever it holds.
        task: loss, metric and settings.
        progress: takes a line now and then.
        deadline: `time.perf_counter` value after which training stops at the best so far.
        memory_bytes: that a step may take, besides data and model; by default half of what is free.
    """

    data: GraphData
    task: Task
    progress: Callable[[str], None] = field(default=lambda line: None)
    deadline: float | None = None
    memory_bytes: int | None = None

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
        program = program.clone()
        return self._judge(program, self._feed(program), split)[0]

    def drop(self, before: Program, after: Program, split: Split = "val") -> float:
        """Tell how much worse the task's metric is of one Program than of another on a split; positive is worse."""
        name, given, y = self.task.metric, [], None
        for program in (before.clone(), after.clone()):
            output, y = _answers(program, self._feed(program), split)
            # Refuses labels that do not suit the output, which what is kept of it no longer shows.
            metrics.evaluate(name, y.numpy(), output.numpy())
            given.append(metrics.predictions(name, output.numpy()))
        assert y is not None
        return drops.point_drop(name, y.numpy(), *given)

    def fit(
        self, program: Program, *, seed: int, epochs: int | None = None, lr: float | None = None,
        teacher: Program | None = None, distil: float = 0.5, everywhere: bool = False, regime: Regime | None = None,
    ) -> tuple[Program, History]:  # fmt: skip
        """Train a copy of the Program and return the best one seen, the given one included.

        Best is the best validation metric, then the lowest validation loss. Zeros of sparse weights stay zero.

        Args:
            program: split; left as it is.
            seed: of dropout, mini-batches and draws of neighbours.
            epochs: at most; by default the task's.
            lr: step size; by default the task's.
            teacher: a Program to learn from besides the labels, as the one before pruning.
            distil: share of the loss that is the divergence from the teacher's answers, 0 to 1.
            everywhere: learn from its answers for all nodes of one graph that is trained on as a whole, and not for
                training nodes alone; its labels are of these all the same. Where memory allows only mini-batches, the
                note tells that it is for training nodes.
            regime: what is done besides; weights that it does not admit are returned only where it admits none, and
                then the last ones.

        Raises:
            UnsupportedError: when the Program behaves differently in training in ways it cannot reproduce, or the
                memory allowed is too small for a single node.
            DataError: when the loss does not suit labels and output.
        """
        _check_trainable(program)
        objective = Objective(self.task.loss, 0 if teacher is None else distil)
        program = program.clone()
        regime = regime or Regime()
        feed = self._feed(program, seed, training=True)
        regime.begin(program, feed)
        optimiser = torch.optim.Adam(regime.groups(program, lr or self.task.lr, self.task.weight_decay))
        regime.started(optimiser)
        zeros = KeptZeros(program)
        if feed.note:
            self.progress(f"training {feed.note}")
        taught = None if teacher is None or distil == 0 else self._taught(teacher.clone(), feed, everywhere)
        metric, loss = self._judge(program, feed, "val")
        sampled = everywhere and not isinstance(feed, WholeFeed) and not self.why_not_everywhere()
        note = feed.note + (ROWS_TAUGHT if taught and sampled else "")
        history, most = History(0, [metric], [], note), self.task.epochs if epochs is None else epochs
        best, unsettled = _Best(program), 0
        best.see(0, self._rank(metric, loss), admitted=regime.admits())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for epoch in range(1, most + 1):
                mean = self._epoch(program, feed.steps(taught), objective, optimiser, regime, zeros)
                history.train_loss.append(mean)
                regime.ended(mean)
                metric, loss = self._judge(program, feed, "val")
                history.validation.append(metric)
                best.see(epoch, self._rank(metric, loss), admitted=regime.admits())
                unsettled = unsettled if regime.settled() else epoch
                if min(best.age(epoch), epoch - unsettled) >= self.task.patience:
                    break
                if self._is_over():
                    self.progress(f"time budget spent at epoch {epoch}")
                    history = history.cut(most)
                    break
                if epoch % 20 == 0:
                    self.progress(f"epoch {epoch}: validation {self.task.metric} {metric:.4f}")
        return program.train(False), replace(history, best_epoch=best.restore(len(history.train_loss)))

    def feed(self, program: Program) -> Feed:
        """Return how a Program is fed in training."""
        return self._feed(program, training=True)

    def why_not_everywhere(self) -> str:
        """Tell why a teacher answers for training rows alone; empty where it may for all nodes."""
        if self.data.num_graphs is not None:
            return "of a set of graphs those that are trained on are run, and no answers for others are learned from"
        return "" if self.data.level == "node" else f"the model answers for each {self.data.level}, and not for nodes"

    @cached_property
    def _validation(self) -> Sequence[GraphData]:
        return split_set(self.data, "val")

    def _pieces(self, split: Split, seed: int | None, most_nodes: int | None) -> Sequence[GraphData]:
        if split == "val" and most_nodes is None:
            return self._validation
        return split_set(self.data, split, seed=seed if split == "train" else None, most_nodes=most_nodes)

    def _feed(self, program: Program, seed: int | None = None, *, training: bool = False) -> Feed:
        limit = default_limit() if self.memory_bytes is None else self.memory_bytes

        def pieces(split: Split, most_nodes: int | None) -> Sequence[GraphData]:
            return self._pieces(split, seed, most_nodes)

        return plan_feed(program, self.data, pieces, limit, training=training)

    def _taught(self, teacher: Program, feed: Feed, everywhere: bool) -> list[Tensor]:
        """Return the teacher's answers for the training rows, part by part of a feed; of one graph they are one."""
        if everywhere and isinstance(feed, WholeFeed) and not self.why_not_everywhere():
            with torch.no_grad():
                return [teacher.train(False)(self.data.inputs)]
        if self.data.num_graphs is None:
            return [_answers(teacher, self._feed(teacher), "train")[0]]
        parts = (replace(part, structure=teacher.structure(part.inputs)) for part in feed.judged("train"))
        teacher.train(False)
        with torch.no_grad():
            return [part.run(teacher) for part in parts]

    def _rank(self, metric: float, loss: float) -> tuple[float, float]:
        return (metric if self.task.higher_is_better else -metric), -loss

    def _is_over(self) -> bool:
        return self.deadline is not None and time.perf_counter() > self.deadline

    def _epoch(
        self, program: Program, parts: Iterable[Part], objective: Objective, optimiser: torch.optim.Optimizer,
        regime: Regime, zeros: KeptZeros,
    ) -> float:  # fmt: skip
        """Take a step on each part until time is over, one at least, and return the mean loss of the rows."""
        program.train(True)
        total = rows = 0.0
        for given in parts:
            part = regime.part(given)
            optimiser.zero_grad(set_to_none=True)
            loss = part.loss(program, objective)
            penalty = regime.penalty()
            (loss if penalty is None else loss + penalty).backward()
            optimiser.step()
            regime.project()
            zeros.project(optimiser)
            regime.stepped(part)
            total, rows = total + float(loss.detach()) * len(part.y), rows + len(part.y)
            if self._is_over():
                break
        return total / rows

    def _judge(self, program: Program, feed: Feed, split: Split) -> tuple[float, float]:
        """Return metric and loss over all rows of a split."""
        output, y = _answers(program, feed, split)
        metric = metrics.evaluate(self.task.metric, y.numpy(), output.numpy())
        return metric, float(compute_loss(self.task.loss, output, y))


class _Best:
    """Keeps the best weights that were seen of one Program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._rank: tuple[float, float] | None = None
        self._epoch = 0
        self._state: dict[str, Tensor] = {}

    def see(self, epoch: int, rank: tuple[float, float], *, admitted: bool) -> None:
        """Keep the weights as they are where they are better than all before, and may be kept."""
        if admitted and (self._rank is None or rank > self._rank):
            self._rank, self._epoch = rank, epoch
            self._state = copy.deepcopy(self._program.body.state_dict())

    def age(self, epoch: int) -> int:
        """Return for how many epochs there was nothing better, once there is something."""
        return 0 if self._rank is None else epoch - self._epoch

    def restore(self, last: int) -> int:
        """Bring the best weights back and return their epoch; where none was kept, the last ones stay."""
        if self._rank is None:
            return last
        self._program.body.load_state_dict(self._state)
        return self._epoch


def _answers(program: Program, feed: Feed, split: Split) -> tuple[Tensor, Tensor]:
    """Return output and labels of the labelled rows of a split; leaves the Program out of training."""
    program.train(False)
    with torch.no_grad():
        judged = [(part.run(program), part.y) for part in feed.judged(split)]
    output, y = (torch.cat(side) for side in zip(*judged, strict=True))
    return output, y


def why_not_trainable(program: Program) -> list[Problem]:
    """Tell what keeps a Program from being trained."""
    mend = "Skip retraining with retrain=false where the pass has it, or "
    if program.training_blocker:
        return [Problem("retraining", program.training_blocker, mend + "change that module")]
    if not any(item.requires_grad for item in program.body.parameters()):
        return [Problem("retraining", "no parameter requires a gradient", mend + "unfreeze some")]
    return []


def _check_trainable(program: Program) -> None:
    problems = why_not_trainable(program)
    if problems:
        raise UnsupportedError(*problems)
