"""Prune hidden channels for full-graph inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, fx

from gnnexport.errors import Problem
from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.program.channels import Group, find_groups, shrink
from gnnexport.program.graphs import args_of, parameter_of, replace_tensor
from gnnexport.program.program import Program
from gnnexport.program.shapes import rank_of
from gnnexport.program.values import body_values
from gnnexport.training.selection import Readers, refit, select_channels

aten = torch.ops.aten
gnn = torch.ops.gnn

Sampler = Callable[[Tensor], Tensor]
"""Draws some rows of a value, the same ones of every value with as many rows."""


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Keep the hidden channels that LASSO picks, refit their readers, and retrain the smaller model.

    The full-inference scheme of GCNP (Zhou et al., VLDB 2021): every hidden value shrinks, raw attributes
    stay; layers are treated from the output to the input, each fitted on unpruned activations.
    """

    name: ClassVar[str] = "prune-channels"
    stage: ClassVar[Stage] = Stage.COMPRESS
    ladder: ClassVar[tuple[str, ...]] = ("keep=0.25", "keep=0.5", "keep=0.75")
    keep: float = 0.5
    """Share of each hidden value's channels that stays."""
    multiple: int = 8
    """Kept widths are rounded up to a multiple of this; a processor works on vectors of 8 or 16."""
    retrain: bool = True
    """Train the smaller model; without labels it is left as fitted."""
    epochs: int | None = None
    """At most this many in retraining; by default the task's."""
    lr: float | None = None
    """Step size of retraining; by default the task's."""
    rows: int = 100_000
    """Nodes, or after a readout graphs, at most that LASSO and refit look at; drawn at random from larger graphs."""

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError("keep must be in (0, 1]. Write for example keep=0.5")
        if self.multiple < 1 or self.rows < 1 or (self.epochs is not None and self.epochs < 0):
            raise ValueError("multiple and rows must be at least 1, epochs at least 0")
        if self.lr is not None and self.lr <= 0:
            raise ValueError("lr must be positive")

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse a Program without data or without a hidden value that can shrink, with the reasons."""
        if program.prepare is None:
            return [Problem(self.name, "the Program is not split yet", "Run raise-messages and split-structure first")]
        if ctx.data is None:
            return [Problem(self.name, "needs the graph's features to fit to", "Give data with --data")]
        groups = find_groups(program.clone())
        if any(not group.blockers for group in groups):
            return []
        if not groups:
            return [Problem(self.name, "the model has no hidden value between two linear maps", "Drop this pass")]
        return [Problem(self.name, f"cannot prune {group}: {group.blockers[0]}", "Drop this pass") for group in groups]

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the smaller Program."""
        program = program.clone().train(False)
        if self.keep == 1:
            ctx.note("keep=1: nothing to prune")
            return program
        assert ctx.data is not None
        values = body_values(program, ctx.data.inputs)
        shrunk = False
        for group in reversed(find_groups(program)):
            if group.blockers:
                ctx.note(f"kept {group}: {group.blockers[0]}")
                continue
            count = self.kept_width(group.width)
            if count == group.width:
                ctx.note(f"kept {group}: {self.keep} of them rounds up to all (multiple={self.multiple})")
                continue
            shrunk = True
            _prune(program, group, count, values, self._sampler(ctx))
            ctx.note(f"{group}: kept {count}")
        return self._retrained(program, ctx) if shrunk else program

    def kept_width(self, width: int) -> int:
        """Return how many of `width` channels stay."""
        # The products of shares such as 0.07 and 100 are a hair too large.
        wanted = math.ceil(round(width * self.keep, 6))
        return min(width, max(1, math.ceil(wanted / self.multiple)) * self.multiple)

    def _sampler(self, ctx: PassContext) -> Sampler:
        """Return what draws rows of a value: of the nodes, or after a readout of the graphs."""

        def sample(values: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(ctx.seed)
            return values[torch.randperm(len(values), generator=generator)[: self.rows]]

        return sample

    def _retrained(self, program: Program, ctx: PassContext) -> Program:
        if not self.retrain or ctx.trainer is None:
            ctx.note("not retrained" + ("" if self.retrain else ": retrain=false"))
            return program
        fitted, history = ctx.trainer.fit(program, seed=ctx.seed, epochs=self.epochs, lr=self.lr)
        metric = ctx.trainer.task.metric
        ctx.note(
            f"validation {metric} {history.validation[0]:.4f} as fitted, {history.best:.4f} "
            f"after retraining (best of {len(history.validation)} at epoch {history.best_epoch})"
        )
        return fitted


def _prune(program: Program, group: Group, count: int, values: Mapping[fx.Node, Any], sample: Sampler) -> None:
    """Choose channels, refit the maps that read them, and shrink everything."""
    sums = _summed_readers(group)
    readers = [_readers(program, nodes, values, sample) for nodes in sums]
    kept = select_channels(readers, count)
    fitted = [refit(reader, kept) for reader in readers]
    shrink(program.body, group, torch.from_numpy(kept))
    for nodes, weights in zip(sums, fitted, strict=True):
        for node, weight in zip(nodes, weights, strict=True):
            # A residual connection makes a map read and make the same channels.
            rows = weight[kept] if node in group.producers else weight
            old = parameter_of(program.body, args_of(node)[1])
            assert old is not None
            replace_tensor(program.body, args_of(node)[1], torch.from_numpy(rows).to(old.dtype))


def _summed_readers(group: Group) -> list[list[fx.Node]]:
    """Collect the linear maps whose results are added up: they are fitted to the sum they make."""
    sums: dict[fx.Node, list[fx.Node]] = {}
    for node in group.consumers:
        result = _aggregated(node)[-1]
        while len(result.users) == 1:
            user = next(iter(result.users))
            # A bias of rank one is added on the way to the sum of the branches.
            if user.target is not aten.add.Tensor or not all(rank_of(item) in (1, 2) for item in args_of(user)):
                break
            result = user
        sums.setdefault(result, []).append(node)
    return list(sums.values())


def _aggregated(linear: fx.Node) -> list[fx.Node]:
    """Follow a linear map through the aggregations of its result; the map itself comes first."""
    chain = [linear]
    while len(chain[-1].users) == 1:
        user = next(iter(chain[-1].users))
        linear_sum = user.target is gnn.aggregate.default and args_of(user)[4] in ("sum", "mean") and rank_of(user) == 2
        if not linear_sum or args_of(user)[0] is not chain[-1]:
            break
        chain.append(user)
    return chain


def _readers(program: Program, nodes: list[fx.Node], values: Mapping[fx.Node, Any], sample: Sampler) -> Readers:
    """Take what the maps read, as their results see it: aggregated where the result is aggregated later."""
    inputs, weights = [], []
    for node in nodes:
        rows = values[args_of(node)[0]]
        for aggregation in _aggregated(node)[1:]:
            arguments = [values[item] if isinstance(item, fx.Node) else item for item in args_of(aggregation)[1:]]
            rows = gnn.aggregate.default(rows, *arguments)
        weight = parameter_of(program.body, args_of(node)[1])
        assert weight is not None
        inputs.append(sample(rows).numpy().astype(np.float64))
        weights.append(weight.detach().numpy().astype(np.float64))
    return Readers(inputs, weights)
