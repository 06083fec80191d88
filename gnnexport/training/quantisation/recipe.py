"""A2Q from end to end: calibrate, learn, snap, tune, and choose by validation (Zhu et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from gnnexport.errors import UnsupportedError
from gnnexport.program.graphs import args_of, parameter_of
from gnnexport.program.program import Program
from gnnexport.program.quantised import quantisers
from gnnexport.training.feeding import Feed
from gnnexport.training.parts import Part
from gnnexport.training.quantisation.allocation import allocate, by_degree, rows_read, set_widths
from gnnexport.training.quantisation.learning import Learning, Rates, count_rows, histogram
from gnnexport.training.quantisation.placing import Placement, factored, place
from gnnexport.training.quantisation.widths import Learned, Target, feature_bytes, learned_widths, mean_bits, snap
from gnnexport.training.trainer import History, Trainer

Note = Callable[[str], None]
Widths = Literal["learned", "error", "degree"]


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
    validation: float | None


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
        return learned_widths(program, count_rows(program, self.feed, quantisers(program)))

    def best(self, placed: Program, teacher: Program) -> Program:
        """Return the best by validation of what was calibrated only and what was trained."""
        maps = self.maps(placed)
        self._check(maps)
        calibrated = self._allocated(placed.clone())
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
        chosen = max(reversed(found), key=lambda item: sign * (item.validation or 0.0))
        self.note(f"chosen by validation: {chosen.label}")
        return chosen.program

    def _check(self, maps: Sequence[Learned]) -> None:
        if not maps:
            return
        smallest = self.recipe.placement.containers[0]
        if not self.recipe.target.is_possible(maps, smallest):
            least = sum(float(item.weights.sum()) * smallest + item.metadata_bits for item in maps) / 8
            what = f"the target cannot be met: with {smallest} bits everywhere hidden features take {least:.0f} bytes"
            raise UnsupportedError.at("a2q", what, "Allow more bits or memory, or smaller containers")

    def _allocated(self, program: Program) -> Program:
        """Give each row the width that it is worth without training."""
        maps = self.maps(program)
        rows = rows_read(program, self.parts, maps)
        containers = self.recipe.placement.containers
        set_widths(maps, allocate(maps, rows, self.recipe.target, containers), rows)
        return program

    def _trained(self, placed: Program, calibrated: Program, teacher: Program) -> _Candidate:
        recipe, epochs = self.recipe, self.recipe.tune_epochs
        if recipe.widths == "learned":
            start = self._snapped(*self._learned(placed, teacher))
        else:
            start, epochs = self._by_degree(placed) if recipe.widths == "degree" else calibrated, epochs + recipe.epochs
        tuned, after = self._fit(start, teacher, Learning(recipe.rates), epochs)
        self.note(
            f"widths {recipe.widths}, {mean_bits(self.maps(tuned)):.2f} bits: validation {after.validation[0]:.4f}, "
            f"{after.best:.4f} after training with these (best at {after.best_epoch})"
        )
        return _Candidate(tuned, "trained", after.best)

    def _learned(self, placed: Program, teacher: Program) -> tuple[Program, list[Learned]]:
        """Train with widths that move."""
        recipe = self.recipe
        learning = Learning(recipe.rates, recipe.target, recipe.penalty)
        learned, history = self._fit(placed, teacher, learning, recipe.epochs)
        if history.note:
            self.note(f"trained {history.note}")
        maps = self.maps(learned)
        if maps:
            self.note(
                f"learned {mean_bits(maps, whole=False):.2f} bits on average, from {learning.trace[0]:.2f}, in "
                f"{len(history.train_loss)} epochs (best at {history.best_epoch}: validation {history.best:.4f})"
            )
        return learned, maps

    def _snapped(self, learned: Program, maps: Sequence[Learned]) -> Program:
        """Give the widths learned their containers; the Program is changed."""
        rows = rows_read(learned, self.parts, maps)
        set_widths(maps, snap(maps, self.recipe.target, self.recipe.placement.containers), rows)
        return learned

    def _by_degree(self, placed: Program) -> Program:
        """Let widths follow the in-degree of nodes."""
        program = placed.clone()
        maps = self.maps(program)
        rows = rows_read(program, self.parts, maps)
        if len(self.parts) != 1 or any(item.quantiser.name not in rows for item in maps):
            what = "widths=degree gives each node of one graph its bits"
            raise UnsupportedError.at("a2q", what, "Use assign=node in mode full, or widths=learned")
        inputs = self.parts[0].inputs
        degrees = torch.bincount(inputs["edge_index"][1], minlength=len(inputs["x"])).float()
        containers = self.recipe.placement.containers
        set_widths(maps, by_degree(maps, degrees, self.recipe.target, containers), rows)
        return program

    def _fit(self, program: Program, teacher: Program, regime: Learning, epochs: int) -> tuple[Program, History]:
        assert self.trainer is not None
        distil = self.recipe.distil
        return self.trainer.fit(
            program, seed=self.recipe.seed, epochs=epochs, lr=self.recipe.lr, regime=regime,
            teacher=teacher if distil else None, distil=distil,
        )  # fmt: skip

    def _tell(self, label: str, program: Program) -> None:
        maps = self.maps(program)
        counts = ", ".join(f"{width}: {count}" for width, count in histogram(maps).items())
        self.note(
            f"{label}; {mean_bits(maps):.2f} bits on average, {feature_bytes(maps):.0f} bytes; rows by bits {counts}"
        )


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
