"""Prune channels by LASSO, for full-graph or for batched inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from gnnexport.errors import Problem
from gnnexport.passes.contract import Mark, Pass, PassContext, Stage, marks_of
from gnnexport.program.channels import Channels, Group
from gnnexport.program.columns import close_columns, hops_to_output, is_read_from_afar, open_columns
from gnnexport.program.program import Program
from gnnexport.program.quantised import quantisers
from gnnexport.training.activations import Activations
from gnnexport.training.budgets import allocate, round_up, take
from gnnexport.training.fitting import Fit
from gnnexport.training.global_budget import Candidate, Limit, solve
from gnnexport.training.selection import Places, Ranking, Select

Scheme = Literal["full", "batched"]


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Keep the channels that LASSO picks, refit their readers, and retrain the smaller model.

    The two schemes of GCNP (Zhou et al., VLDB 2021). `full`: every hidden value shrinks, raw features stay. `batched`:
    what is read from far nodes shrinks: the raw features in the neighbour branch of the first layer, and the hidden
    inputs of later layers. Groups are treated from the output to the input, each fitted on unpruned activations.
    """

    name: ClassVar[str] = "prune-channels"
    stage: ClassVar[Stage] = Stage.COMPRESS
    ladder: ClassVar[tuple[str, ...]] = ("keep=0.25", "keep=0.5", "keep=0.75")
    keep: float | None = None
    """Share of each group's channels that stays; 0.5 unless macs or latency is given."""
    macs: float | None = None
    """Share of all multiply-accumulates to come down to; each group then shrinks as far as costs least accuracy."""
    latency: float | None = None
    """Share of the latency on the target to come down to, measured."""
    scheme: Scheme | None = None
    """What shrinks; by default it follows the mode of deployment."""
    select: Select = "lasso"
    """How channels are chosen; the other ways show what LASSO buys."""
    heads: Literal["inside", "whole"] = "inside"
    """Whether channels inside attention heads go, equally many of each, or whole heads."""
    refit: bool = True
    """Fit what reads the channels to what it computed before."""
    multiple: int = 8
    """Kept widths are rounded up to a multiple of this; a processor works on vectors of 8 or 16."""
    retrain: bool = True
    """Train the smaller model; without labels it is left as fitted."""
    distil: float = 0.0
    """Share of the loss of retraining that is the divergence from the unpruned model's answers."""
    epochs: int | None = None
    """At most this many in retraining; by default the task's."""
    lr: float | None = None
    """Step size of retraining; by default the task's."""
    rows: int = 100_000
    """Rows at most that LASSO and refit look at: nodes, edges or, after a readout, graphs; drawn at random."""

    def __post_init__(self) -> None:
        shares = {name: share for name in ("keep", "macs", "latency") if (share := getattr(self, name)) is not None}
        if len(shares) > 1:
            raise ValueError(f"{' and '.join(shares)} exclude each other. Give one of them")
        for name, share in shares.items():
            if not 0 < share <= 1:
                raise ValueError(f"{name} must be in (0, 1]. Write for example {name}=0.5")
        if not shares:
            object.__setattr__(self, "keep", 0.5)
        if self.multiple < 1 or self.rows < 1 or (self.epochs is not None and self.epochs < 0):
            raise ValueError("multiple and rows must be at least 1, epochs at least 0")
        if self.lr is not None and self.lr <= 0:
            raise ValueError("lr must be positive")
        if not 0 <= self.distil <= 1:
            raise ValueError("distil must be in [0, 1]. Write for example distil=0.5")

    def check_behind(self, marks: frozenset[Mark]) -> list[Problem]:
        """Refuse sparse weights."""
        if "sparse weights" not in marks:
            return []
        what = "weights are sparse already, and fitting what reads fewer channels would fill them"
        return [Problem(self.name, what, "Put prune-channels in front of sparsify-weights, and of joint")]

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse a Program without data or without channels that can go, with the reasons."""
        if program.prepare is None:
            return [Problem(self.name, "the Program is not split yet", "Run raise-messages and split-structure first")]
        if ctx.data is None:
            return [Problem(self.name, "needs the graph's features to fit to", "Give data with --data")]
        if problems := self.check_behind(marks_of(program)):
            return problems
        if self.latency is not None and ctx.latency is None:
            what = f"latency={self.latency} cannot be measured: the target does not run on this machine"
            return [Problem(self.name, what, "Use macs=0.5, or compress where the target runs")]
        program = program.clone()
        channels = self._channels(program, ctx)
        if any(not group.blockers for group in channels.groups):
            return []
        if any(not item.raw for item in quantisers(program)):
            return [Problem(self.name, "the model is quantised already", "Put prune-channels in front of that")]
        if not channels.groups:
            return [Problem(self.name, "the model has no hidden value between two linear maps", "Drop this pass")]
        return [Problem(self.name, f"cannot prune {group}", "Drop this pass") for group in channels.groups]

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the smaller Program."""
        given, program = program, program.clone().train(False)
        share = next(item for item in (self.keep, self.macs, self.latency) if item is not None)
        if share == 1:
            ctx.note(f"{'keep' if self.keep else 'macs' if self.macs else 'latency'}=1: nothing to prune")
            return program
        assert ctx.data is not None
        channels = self._channels(program, ctx)
        fits = self._fits(program, channels, ctx)
        if not self._cut(program, channels, fits, ctx):
            return given.clone().train(False)
        close_columns(program)
        return self._retrained(given, program, ctx)

    def _channels(self, program: Program, ctx: PassContext) -> Channels:
        """Find the groups of a Program, after making room for a selection of raw features where the scheme has one."""
        if self._scheme(ctx) == "batched":
            open_columns(program)
        channels = Channels(program, whole_heads=self.heads == "whole")
        if self._scheme(ctx) == "batched":
            hops = hops_to_output(program.body.graph)
            for group in channels.groups:
                if not is_read_from_afar(group.producers, hops):
                    group.blockers.append("only the nodes asked for have them (scheme=batched)")
        return channels

    def _scheme(self, ctx: PassContext) -> Scheme:
        return self.scheme or ("batched" if ctx.mode == "batched" else "full")

    def _fits(self, program: Program, channels: Channels, ctx: PassContext) -> list[Fit]:
        """Look at the unpruned network through the readers of every group that can shrink, in graph order."""
        groups = []
        for group in channels.groups:
            if group.blockers:
                if group.consumers:
                    ctx.note(f"kept {group}")
            elif self.keep is not None and self._total(group, self.keep) >= group.free:
                ctx.note(f"kept {group}: {self.keep} of them rounds up to all (multiple={self.multiple})")
            else:
                groups.append(group)
        assert ctx.data is not None
        activations = Activations(ctx.data.inputs, self.rows, ctx.seed, ctx.memory_bytes)
        read = activations.read(program, [node for group in groups for node in group.consumers])
        return [Fit(channels, group, activations, read) for group in groups]

    def _total(self, group: Group, share: float) -> int:
        """Return how many units of a group stay for a share."""
        step = -(-self.multiple // int(group.sizes.max()))
        return round_up(group.free * share, step, group.free)

    def _cut(self, program: Program, channels: Channels, fits: Sequence[Fit], ctx: PassContext) -> bool:
        """Choose, cut and refit from the output to the input; tell whether anything went."""
        assert ctx.data is not None
        plans = self._plans(program, channels, fits, ctx)
        done = False
        for fit, planned in reversed(list(zip(fits, plans, strict=True))):
            kept = self._kept(fit, planned, ctx)
            if len(kept) == fit.group.free:
                ctx.note(f"kept all of {fit.group}")
                continue
            widths = fit.cut(kept)
            if self.refit:
                fit.refit(program)
            ctx.note(f"{fit.group}: kept {widths}")
            done = True
        return done

    def _kept(self, fit: Fit, planned: Places | None, ctx: PassContext) -> Places:
        """Choose the units that stay, now that what later groups lost is known."""
        group = fit.group
        if planned is None:
            assert self.keep is not None
            total = max(self._total(group, self.keep), min(group.free, fit.least()))
            return self._chosen(fit, self._ranking(fit, ctx), total)
        counts = [len(np.intersect1d(segment, planned)) for segment in group.segments]
        return take(self._ranking(fit, ctx).order(len(planned)), group.segments, counts)

    def _plans(
        self, program: Program, channels: Channels, fits: Sequence[Fit], ctx: PassContext
    ) -> Sequence[Places | None]:
        """Return the units of each group that a budget for the whole model leaves; none with a share for each group."""
        if self.keep is not None:
            return [None] * len(fits)
        assert ctx.data is not None
        candidates = []
        for fit in fits:
            ranking, least = self._ranking(fit, ctx), self._total(fit.group, 1e-9)
            totals = sorted({self._total(fit.group, step / 64) for step in range(1, 65)} | {least}, reverse=True)
            chosen = [self._chosen(fit, ranking, total) for total in totals]
            errors = [ranking.error(kept) for kept in chosen]
            candidates.append(Candidate(fit.group, totals, chosen, errors, fit.least))
        limit = Limit(program, channels, ctx.data.inputs, None if self.macs is not None else ctx.latency)
        plans, note = solve(candidates, limit, self.macs or self.latency or 1.0)
        ctx.note(note)
        return plans

    def _ranking(self, fit: Fit, ctx: PassContext) -> Ranking:
        return Ranking(fit.gram(), self.select, fit.magnitudes(), ctx.seed)

    def _chosen(self, fit: Fit, ranking: Ranking, total: int) -> Places:
        group = fit.group
        step = -(-self.multiple // int(group.sizes.max()))
        return allocate(ranking.order(total), group.segments, group.ties, total, step)

    def _retrained(self, given: Program, program: Program, ctx: PassContext) -> Program:
        if not self.retrain or ctx.trainer is None:
            ctx.note("not retrained" + ("" if self.retrain else ": retrain=false"))
            return program
        if self.distil:
            fitted, history = ctx.trainer.fit(
                program, seed=ctx.seed, epochs=self.epochs, lr=self.lr, teacher=given, distil=self.distil
            )
        else:
            fitted, history = ctx.trainer.fit(program, seed=ctx.seed, epochs=self.epochs, lr=self.lr)
        if history.note:
            ctx.note(f"retrained {history.note}")
        metric = ctx.trainer.task.metric
        ctx.note(
            f"validation {metric} {history.validation[0]:.4f} as fitted, {history.best:.4f} "
            f"after retraining (best of {len(history.validation)} at epoch {history.best_epoch})"
        )
        return fitted
