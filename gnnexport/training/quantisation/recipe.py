"""A2Q from end to end: calibrate, learn, snap, tune, and choose by validation (Zhu et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from gnnexport.errors import UnsupportedError
from gnnexport.program.graphs import args_of, parameter_of
from gnnexport.program.program import Program
from gnnexport.program.quantised import quantisers
from gnnexport.training.feeding import Feed
from gnnexport.training.parts import Part
from gnnexport.training.quantisation.allocation import allocate, by_degree, rows_read, set_widths
from gnnexport.training.quantisation.learning import Learning, Rates, counted_widths, histogram
from gnnexport.training.quantisation.placing import Placement, factored, place
from gnnexport.training.quantisation.widths import (
    Learned,
    Target,
    feature_bytes,
    mean_bits,
    nearest_containers,
    smallest_containers,
    snap,
)
from gnnexport.training.trainer import History, Trainer

Note = Callable[[str], None]
Widths = Literal["learned", "error", "degree"]

MOST_ROUNDS = 50
"""Of snapping; each takes two percent at least, and rows with steps of their own need one."""


@dataclass(frozen=True)
class Recipe:
    """How a Program is brought to few bits.

    Args:
        target: of the widths.
        placement: what is rounded; its bits are where learning starts.
        penalty: pressure on widths.
        rates: of Adam.
        epochs: of learning.
        tune_epochs: with the widths fixed.
        lr: of the weights; by default the task's.
        distil: share of the loss that is the divergence from the model as it was.
        seed: of training.
        widths: learned, or given before training: by the error that they leave, or by in-degree.
    """

    target: Target
    placement: Placement
    widths: Widths = "learned"
    penalty: float = 1.0
    rates: Rates = field(default_factory=Rates)
    epochs: int = 100
    tune_epochs: int = 50
    lr: float | None = None
    distil: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class _Candidate:
    program: Program
    label: str
    validation: float


def quantise(
    program: Program, parts: Sequence[Part] | None, trainer: Trainer | None, recipe: Recipe, note: Note
) -> Program:
    """Return the Program with learned steps and widths, its weights on their levels.

    Args:
        program: split; left as it is.
        parts: of the data, for calibration where there is no trainer.
        trainer: learns and judges; without one the Program is calibrated only.
        recipe: see there.
        note: takes lines for the report.

    Raises:
        UnsupportedError: the target cannot be met, or nothing can be rounded.
    """
    plain, count = factored(program)
    if count:
        note(f"edge weights of {count} sums became scales of rows, so that whole numbers are summed")
    feed = None if trainer is None else trainer.feed(plain)
    given = list(parts or ()) if feed is None else list(feed.judged("train"))
    if feed is None:
        given = [replace(part, structure=plain.structure(part.inputs)) for part in given]
    placed = place(plain, given, recipe.placement)
    for line in placed.notes:
        note(line)
    run = _Run(trainer, feed, given, recipe, note)
    best = run.best(placed.program, program)
    return finish(best)


class _Run:
    """One run of a recipe."""

    def __init__(
        self, trainer: Trainer | None, feed: Feed | None, parts: Sequence[Part], recipe: Recipe, note: Note
    ) -> None:
        self.trainer = trainer
        self.feed = feed
        self.parts = parts
        self.recipe = recipe
        self.note = note

    def maps(self, program: Program) -> list[Learned]:
        """Return the hidden features of a Program, with how many rows take each entry."""
        program.annotate()
        return counted_widths(program, self.feed, self.recipe.placement.containers)

    def best(self, placed: Program, teacher: Program) -> Program:
        """Return the best by validation of what was calibrated only and what was trained."""
        self._check(self.maps(placed))
        calibrated = self._given(placed.clone())
        if self.trainer is None:
            self._tell("calibrated", calibrated)
            return calibrated
        metric = self.trainer.task.metric
        found = [_Candidate(calibrated, "calibrated only", self.trainer.evaluate(calibrated))]
        if self.recipe.epochs:
            found.append(self._trained(placed, calibrated, teacher))
        for item in found:
            self._tell(f"{item.label}: validation {metric} {item.validation:.4f}", item.program)
        sign = 1 if self.trainer.task.higher_is_better else -1
        # Of equals the trained one: its loss has come down.
        chosen = max(reversed(found), key=lambda item: sign * item.validation)
        self.note(f"chosen by validation: {chosen.label}")
        return chosen.program

    def _check(self, maps: Sequence[Learned]) -> None:
        if not maps:
            self.note("no hidden features to learn widths of: only what stands in the other operands is rounded")
            return
        for item in maps:
            if not item.containers:
                what = f"{item.quantiser.name} may be negative, and one bit and a sign leave nothing but zero"
                raise UnsupportedError.at("a2q", what, "Allow larger containers")
        target = self.recipe.target
        if not target.is_met(maps, smallest_containers(maps)):
            least = f"{target.least(maps):,.4g} " + ("bits on average" if target.bits is not None else "bytes")
            what = f"the target cannot be met: in the smallest containers hidden features take {least}"
            mend = "Allow more bits or memory, or smaller containers; rows that may be negative take 2 bits at least"
            raise UnsupportedError.at("a2q", what, mend)

    def _given(self, program: Program) -> Program:
        """Give each row its width without training: what it is worth, or what the in-degree of its node says."""
        maps, target = self.maps(program), self.recipe.target
        if not maps:
            return program
        rows = rows_read(program, self.parts, maps)
        if self.recipe.widths == "degree":
            set_widths(maps, by_degree(maps, self._degrees(maps, rows), target), rows)
        elif all(item.quantiser.name in rows for item in maps):
            set_widths(maps, allocate(maps, rows, target), rows)
        else:  # what rows groups get hangs on their widths
            self._snap(program, maps, [torch.full_like(item.bits, target.bits or 8.0) for item in maps])
        return program

    def _degrees(self, maps: Sequence[Learned], rows: Mapping[str, Tensor]) -> Tensor:
        """Return the in-degrees of the nodes that all maps are of."""
        inputs = self.parts[0].inputs
        nodes = len(inputs["x"]) if len(self.parts) == 1 and {"x", "edge_index"} <= set(inputs) else None
        if any(len(rows.get(item.quantiser.name, ())) != nodes for item in maps) or nodes is None:
            what = "widths=degree gives each node of one graph its bits"
            raise UnsupportedError.at("a2q", what, "Use assign=node in mode full, or widths=learned")
        return torch.bincount(inputs["edge_index"][1], minlength=nodes).float()

    def _trained(self, placed: Program, calibrated: Program, teacher: Program) -> _Candidate:
        recipe, start, epochs = self.recipe, calibrated, self.recipe.tune_epochs
        if recipe.widths == "learned":
            start, maps = self._learned(placed, teacher)
            self._snap(start, maps, [item.bits.clone() for item in maps])
        else:
            epochs += recipe.epochs
        tuned, after = self._fit(start, teacher, None, epochs)
        self.note(
            f"with widths by {recipe.widths if recipe.widths != 'learned' else 'learning'}: validation "
            f"{after.validation[0]:.4f}, {after.best:.4f} after training with these (best at {after.best_epoch})"
        )
        return _Candidate(tuned, "trained", after.best)

    def _learned(self, placed: Program, teacher: Program) -> tuple[Program, list[Learned]]:
        """Train with widths that move."""
        start = mean_bits(self.maps(placed))
        learned, history = self._fit(placed, teacher, self.recipe.penalty, self.recipe.epochs)
        if history.note:
            self.note(f"trained {history.note}")
        maps = self.maps(learned)
        if maps:
            bits = mean_bits(maps, nearest_containers(maps))
            self.note(
                f"learned {bits:.2f} bits on average in containers, from {start:.2f}, "
                f"in {len(history.train_loss)} epochs (best at {history.best_epoch}: validation {history.best:.4f})"
            )
        return learned, maps

    def _snap(self, program: Program, maps: Sequence[Learned], widths: Sequence[Tensor]) -> None:
        """Give rows the containers next to some widths; the Program is changed.

        Where a layer's groups are narrowed, rows of later layers may take other groups than before. So rows are counted
        anew, and the target is made tighter until it is met, at the latest in the smallest containers.
        """
        target, share = self.recipe.target, 1.0
        rows = rows_read(program, self.parts, maps)
        for _ in range(MOST_ROUNDS):
            set_widths(maps, snap(maps, target, widths, share), rows)
            maps = self.maps(program)
            used = [item.bits for item in maps]
            if target.is_met(maps, used):
                return
            share *= min(0.98, target.limit(maps) / target.cost(maps, used))
        set_widths(maps, smallest_containers(maps), rows)

    def _fit(self, program: Program, teacher: Program, penalty: float | None, epochs: int) -> tuple[Program, History]:
        """Train, with widths that move where there is a pressure on them."""
        assert self.trainer is not None
        distil, recipe = self.recipe.distil, self.recipe
        regime = Learning(recipe.rates, recipe.target, recipe.placement.containers, penalty)
        return self.trainer.fit(
            program, seed=self.recipe.seed, epochs=epochs, lr=self.recipe.lr, regime=regime,
            teacher=teacher if distil else None, distil=distil,
        )  # fmt: skip

    def _tell(self, label: str, program: Program) -> None:
        if maps := self.maps(program):
            counts = ", ".join(f"{width}: {count}" for width, count in histogram(maps).items())
            bits, size = mean_bits(maps), feature_bytes(maps)
            label += f"; {bits:.2f} bits on average, {size:.0f} bytes; rows by bits {counts}"
        self.note(label)


def finish(program: Program) -> Program:
    """Put weights on their levels and fix steps and widths; the Program is changed and returned."""
    program.annotate()
    with torch.no_grad():
        for item in quantisers(program):
            item.step.requires_grad_(False)
            item.bits.requires_grad_(False)
            value = args_of(item.node)[0]
            weight = parameter_of(program.body, value)
            if item.what == "weight" and weight is not None:
                weight.data = torch.ops.gnn.quantize_rows(weight, item.step, item.bits, item.signed, False)
    return program.train(False)
