"""From a Program to one with sparse weights: train and prune, or train sparse."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gnnexport.program.program import Program
from gnnexport.training.sparsity.densities import Distribution
from gnnexport.training.sparsity.flops import Counted, TrainingFlops
from gnnexport.training.sparsity.growing import Grower, Growing, Growth
from gnnexport.training.sparsity.norms import Inputs, squares_read
from gnnexport.training.sparsity.patterns import UNSTRUCTURED, Axis, Pattern, mask_of
from gnnexport.training.sparsity.projection import Entries, Projection, Values, WholeChannels
from gnnexport.training.sparsity.scratch import reset
from gnnexport.training.sparsity.splitting import Splitter, Splitting
from gnnexport.training.sparsity.weights import Weight, find_weights, laid_out
from gnnexport.training.sparsity.zeros import apply_masks
from gnnexport.training.trainer import History, Trainer

Note = Callable[[str], None]
Method = Literal["magnitude", "slr", "admm", "rigl", "set"]
Start = Literal["trained", "scratch"]
Score = Literal["magnitude", "norm"]

MOST_NAMED = 8
"""Weights that a note lists one by one."""


@dataclass(frozen=True)
class Recipe:
    """How weights become sparse.

    Args:
        method: by which they do.
        score: what entries are told apart by: their magnitude, or that times the norm of what they read.
        sparsity: share of entries, or of channels, that go.
        threshold: magnitude times norm below which entries go, in place of a share; with `norm`.
        pattern: of what stays.
        distribution: how it is shared out among weights.
        rounds: in which entries go, training in between; with `magnitude`.
        start: of sparse training.
        every: steps between changes of places, with sparse training.
        death: share of active entries that changes places at first.
        stop: share of the steps after which places stay.
        rho: strength of the pull of `slr` and `admm`.
        step: first step of the multipliers of `slr`.
        epochs: before weights are pruned for good, or of sparse training.
        retrain_epochs: after that; 0 leaves them as pruned.
        lr: step size; by default the task's.
        distil: share of the loss that is the divergence from the model as it was.
        everywhere: of that, its answers for all nodes count, see `Trainer.fit`.
        seed: of training and draws.
    """

    method: Method = "magnitude"
    score: Score = "magnitude"
    sparsity: float = 0.9
    threshold: float | None = None
    pattern: Pattern | Axis = UNSTRUCTURED
    distribution: Distribution = "global"
    rounds: int = 1
    start: Start = "trained"
    every: int | None = None
    death: float = 0.5
    stop: float = 0.75
    rho: float = 0.1
    step: float = 0.01
    epochs: int = 0
    retrain_epochs: int = 0
    lr: float | None = None
    distil: float = 0.0
    everywhere: bool = False
    seed: int = 0


def sparsify(
    program: Program, trainer: Trainer | None, recipe: Recipe, note: Note, flops: TrainingFlops | None = None,
    graphs: Sequence[Inputs] = (),
) -> Program:  # fmt: skip
    """Return the Program with sparse weights, or with fewer channels.

    Args:
        program: split; left as it is.
        trainer: trains and judges; without one the largest magnitudes stay, and nothing is trained.
        recipe: see there.
        note: takes lines for the report.
        flops: where operations of training are counted, besides the note about them.
        graphs: that norms are of, inputs by name; needed where the recipe scores by them.
    """
    return _Run(program, trainer, recipe, note, flops or TrainingFlops(), graphs).done()


class _Run:
    """One run of a recipe."""

    def __init__(
        self, program: Program, trainer: Trainer | None, recipe: Recipe, note: Note, flops: TrainingFlops,
        graphs: Sequence[Inputs],
    ) -> None:  # fmt: skip
        self.given, self.trainer, self.recipe, self.note, self.flops = program, trainer, recipe, note, flops
        self.graphs = graphs
        self.program = program.clone().train(False)
        # Which entries stay is decided anew, also of weights that are sparse already.
        self.program.sparse_weights = frozenset()
        self.weights = prunable(self.program)

    def done(self) -> Program:
        """Carry the recipe out."""
        if self.recipe.method == "rigl" or self.recipe.method == "set":
            program = self._trained_sparse(self.recipe.method)
        else:
            program = self._pruned()
        if self.flops.steps:
            self.note(str(self.flops))
        return program.train(False)

    def _pruned(self) -> Program:
        """Train and prune: bring weights towards sparse ones, prune them, and train what is left."""
        recipe, program = self.recipe, self.program
        if recipe.method != "magnitude" and self.trainer is not None:
            program = self._split(program, "slr" if recipe.method == "slr" else "admm")
        elif recipe.rounds > 1 and self.trainer is not None:
            program = self._gradually(program)
        program.sparse_weights = frozenset()
        projection = self._projection(program)
        if isinstance(projection, Entries) and recipe.threshold is not None:
            apply_masks(program, projection.above(values_of(program), recipe.threshold))
            self._tell(program)
            if not program.sparse_weights:
                self.note("no entry goes: the model stays as it is")
                return self.given.clone()
        elif isinstance(projection, WholeChannels):
            for line in projection.cut(program, values_of(program), recipe.sparsity):
                self.note(line)
        else:
            apply_masks(program, projection.masks(values_of(program), recipe.sparsity))
            self._tell(program)
        if self.trainer is None or not recipe.retrain_epochs:
            self.note("not retrained" + (": without labels" if self.trainer is None else ""))
            return program
        fitted, history = self._fit(program, Counted(self.flops), recipe.retrain_epochs)
        metric = self.trainer.task.metric
        self.note(
            f"validation {metric} {history.validation[0]:.4f} as pruned, {history.best:.4f} after training what is "
            f"left (best of {len(history.validation)} at epoch {history.best_epoch})"
        )
        return fitted

    def _projection(self, program: Program) -> Projection:
        """Return what tells which weights of a Program stay; norms are of what it reads now."""
        recipe = self.recipe
        if not isinstance(recipe.pattern, Pattern):
            return WholeChannels(program, recipe.pattern)
        read = squares_read(program, self.weights, self.graphs) if recipe.score == "norm" else None
        return Entries(self.weights, recipe.pattern, recipe.distribution, read)

    def _split(self, program: Program, how: Splitter) -> Program:
        """Train with a pull towards sparse weights."""
        recipe, projection = self.recipe, self._projection(program)
        regime = Splitting(how, projection, recipe.sparsity, recipe.rho, recipe.step, self.flops)
        program, _ = self._fit(program, regime, recipe.epochs)
        if regime.distances:
            moved = f"; multipliers moved {regime.updates - 1} times" if how == "slr" else ""
            self.note(
                f"{how}: |W - Z| from {regime.distances[0]:.3g} to {regime.distances[-1]:.3g} in "
                f"{len(regime.distances)} updates{moved}"
            )
        return program

    def _gradually(self, program: Program) -> Program:
        """Prune in rounds: fast at first, when there is much to spare, and slower towards the end."""
        recipe = self.recipe
        for turn in range(1, recipe.rounds):
            if self._is_over():
                self.note(f"time budget spent before round {turn} of {recipe.rounds}")
                break
            share = recipe.sparsity * (1 - (1 - turn / recipe.rounds) ** 3)
            apply_masks(program, self._projection(program).masks(values_of(program), share))
            program, history = self._fit(program, Counted(self.flops), max(1, recipe.epochs // (recipe.rounds - 1)))
            self.note(f"round {turn} of {recipe.rounds}: sparsity {share:.3f}, validation {history.best:.4f}")
        return program

    def _trained_sparse(self, how: Grower) -> Program:
        """Train sparse weights whose places change."""
        recipe, program = self.recipe, self.program
        assert self.trainer is not None
        assert isinstance(recipe.pattern, Pattern)
        if recipe.start == "scratch":
            reset(program, recipe.seed)
        masks = self._first_masks(recipe.pattern)
        apply_masks(program, masks)
        self._tell(program)
        # Which entries are zero is up to the regime from here on.
        program.sparse_weights = frozenset()
        growth = Growth(how, recipe.pattern, recipe.epochs, recipe.every, recipe.death, recipe.stop, recipe.seed)
        regime = Growing(growth, self.weights, masks, self.flops)
        fitted, history = self._fit(program, regime, recipe.epochs)
        fitted.sparse_weights = frozenset(name for name, mask in masks.items() if not bool(mask.all()))
        metric = self.trainer.task.metric
        self.note(
            f"{how}: validation {metric} {history.validation[0]:.4f} at first, {history.best:.4f} at epoch "
            f"{history.best_epoch} of {len(history.train_loss)}; places changed {regime.changes} times, "
            f"{regime.coverage:.1%} of all entries were active at some time"
        )
        return fitted

    def _first_masks(self, pattern: Pattern) -> dict[str, Tensor]:
        """Return what is active at first: the largest trained weights, or any."""
        entries = Entries(self.weights, pattern, self.recipe.distribution)
        if self.recipe.start == "trained":
            return entries.masks(values_of(self.program), self.recipe.sparsity)
        generator = torch.Generator().manual_seed(self.recipe.seed)
        drawn = [torch.rand(item.shape, generator=generator) for item in self.weights]
        counts = entries.counts(self.recipe.sparsity)
        masks = [mask_of(score, pattern, count) for score, count in zip(drawn, counts, strict=True)]
        return laid_out(self.weights, masks, values_of(self.program))

    def _fit(self, program: Program, regime: Counted, epochs: int) -> tuple[Program, History]:
        assert self.trainer is not None
        recipe = self.recipe
        fitted, history = self.trainer.fit(
            program, seed=recipe.seed, epochs=epochs, lr=recipe.lr, regime=regime,
            teacher=self.given if recipe.distil else None, distil=recipe.distil, everywhere=recipe.everywhere,
        )  # fmt: skip
        if history.note:
            self.note(f"trained {history.note}")
        return fitted, history

    def _is_over(self) -> bool:
        deadline = None if self.trainer is None else self.trainer.deadline
        return deadline is not None and time.perf_counter() > deadline

    def _tell(self, program: Program) -> None:
        self.note(told(self.weights, values_of(program)))


def prunable(program: Program) -> list[Weight]:
    """Return the weights of a Program that may change."""
    return [item for item in find_weights(program) if item.learned]


def values_of(program: Program) -> Mapping[str, Tensor]:
    """Return the parameters of a body by name."""
    return dict(program.body.named_parameters())


def told(weights: Sequence[Weight], values: Values) -> str:
    """Tell how many entries of each weight differ from zero."""
    left = [int(item.matrix(values[item.name].detach()).count_nonzero()) for item in weights]
    total = sum(item.size for item in weights)
    text = f"{sum(left):,} of {total:,} weights differ from zero ({sum(left) / total:.1%})"
    if len(weights) > MOST_NAMED:
        return text
    parts = (f"{item.label} {count / item.size:.1%}" for item, count in zip(weights, left, strict=True))
    return f"{text}: {', '.join(parts)}"
