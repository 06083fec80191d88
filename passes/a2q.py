"""Give each node's features their own few bits, learned together with the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from gnnexport.errors import Problem
from gnnexport.passes.contract import Mark, Pass, PassContext, Stage
from gnnexport.program.containers import CONTAINERS
from gnnexport.program.program import Program
from gnnexport.program.quantised import find_operands, is_quantised
from gnnexport.program.stored import is_packed
from gnnexport.training.feeding import WholeFeed
from gnnexport.training.parts import Part, whole_part
from gnnexport.training.quantisation.learning import Rates
from gnnexport.training.quantisation.placing import Assign, Inputs, Placement
from gnnexport.training.quantisation.recipe import Recipe, Widths, quantise
from gnnexport.training.quantisation.widths import Target


@dataclass(frozen=True)
class A2Q(Pass):
    """Learn a step and a width for each node's features, and train the rounded model (A2Q, Zhu et al., ICLR 2023)."""

    name: ClassVar[str] = "a2q"
    stage: ClassVar[Stage] = Stage.COMPRESS
    turn: ClassVar[int] = 25
    ladder: ClassVar[tuple[str, ...]] = ("bits=2", "bits=4")
    bits: float | None = None
    """Average over hidden feature maps and nodes to come down to; 2 unless memory is given."""
    memory: int | None = None
    """Bytes of all hidden feature maps to come down to, with steps, widths and indices."""
    penalty: float = 1.0
    """Strength of the pressure on widths, which grows as long as the target is missed."""
    weight_bits: int = 4
    """Of weights, with a step for each output channel."""
    sum_bits: int = 4
    """Of what is summed over neighbours, with a step for each column."""
    score_bits: int = 8
    """Of attention scores before they meet on an edge, with a step for each head; 0 leaves them."""
    assign: Assign | None = None
    """Whether each node has its own step and width, or takes the group nearest to its largest magnitude; by default
    node in mode full, which knows all nodes, and else nearest."""
    groups: int = 1000
    """Steps and widths for nearest."""
    gradient: Literal["auto", "local", "task"] = "auto"
    """What steps and widths of features learn from: each row's own error, or the task's loss; auto is local where
    nodes are answered for, of which few have labels, and else task."""
    containers: tuple[int, ...] = CONTAINERS
    """Widths that rows are stored in; one bit is for rows that cannot be negative."""
    inputs: Inputs = "none"
    """Whether features are rounded, too: exact only where that changes no row, rows in any case."""
    widths: Widths = "learned"
    """How nodes come to their widths: learned, or before training by the error that they leave, or by in-degree."""
    start: float | None = None
    """Bits that learning starts from; by default two more than the target."""
    lr_bits: float = 0.1
    """Step size of Adam for widths."""
    lr_steps: float = 0.02
    """Step size of Adam for steps, as a share of what each was at first."""
    epochs: int | None = None
    """Of learning, at most; by default the task's. Half as many follow with the widths fixed. 0 calibrates only."""
    lr: float | None = None
    """Step size of the weights; by default the task's."""
    distil: float = 0.0
    """Share of the loss that is the divergence from the answers of the model as it was."""

    def __post_init__(self) -> None:
        if self.bits is not None and self.memory is not None:
            raise ValueError("bits and memory exclude each other. Give one of them")
        if self.bits is None and self.memory is None:
            object.__setattr__(self, "bits", 2.0)
        if self.bits is not None and not 1 <= self.bits <= 8:
            raise ValueError("bits must be from 1 to 8. Write for example bits=2")
        if self.memory is not None and self.memory < 1:
            raise ValueError("memory must be at least 1 byte")
        for name in ("weight_bits", "sum_bits"):
            if not 2 <= getattr(self, name) <= 8:
                raise ValueError(f"{name} must be from 2 to 8: one bit and a sign leave nothing but zero")
        if self.score_bits != 0 and not 2 <= self.score_bits <= 8:
            raise ValueError("score_bits must be 0 or from 2 to 8")
        if not self.containers or not set(self.containers) <= set(CONTAINERS):
            raise ValueError("containers must be some of [1,2,4,8]")
        object.__setattr__(self, "containers", tuple(sorted(set(self.containers))))
        if self.start is not None and not 1 <= self.start <= 8:
            raise ValueError("start must be from 1 to 8")
        if self.groups < 1 or (self.epochs is not None and self.epochs < 0):
            raise ValueError("groups must be at least 1, epochs at least 0")
        for name in ("penalty", "lr_bits", "lr_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        self._check_effects()
        if self.lr is not None and self.lr <= 0:
            raise ValueError("lr must be positive")
        if not 0 <= self.distil <= 1:
            raise ValueError("distil must be in [0, 1]. Write for example distil=0.5")

    def _check_effects(self) -> None:
        """Refuse options that would do nothing beside others."""
        for name in ("penalty", "start", "lr_bits"):
            if self.widths != "learned" and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name} acts with widths=learned alone. Drop one of the two")
        if self.assign == "node" and self.groups != type(self).groups:
            raise ValueError("groups acts with assign=nearest alone. Drop one of the two")

    @property
    def leaves(self) -> frozenset[Mark]:
        """Values are rounded."""
        return frozenset({"quantised"})

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse a Program without data, without anything to round, or with something rounded already."""
        if program.prepare is None:
            return [Problem(self.name, "the Program is not split yet", "Run raise-messages and split-structure first")]
        if ctx.data is None:
            return [Problem(self.name, "needs the graph's features to calibrate on", "Give data with --data")]
        if self.assign == "node" and ctx.mode != "full":
            what = f"assign=node knows the nodes of one graph only, not those of mode '{ctx.mode}'"
            return [Problem(self.name, what, "Use assign=nearest")]
        program = program.clone()
        program.annotate()
        if ctx.mode == "batched" and is_packed(program):
            return [Problem(self.name, "the features are packed already", "Put pack-features behind this pass")]
        if is_quantised(program):
            return [Problem(self.name, "the model is quantised already", "Run one quantising pass")]
        if not find_operands(program):
            return [Problem(self.name, "the model has neither products nor sums to round", "Drop this pass")]
        return []

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the Program with quantisers and trained weights."""
        assert ctx.data is not None
        recipe = self._recipe(program, ctx)
        parts: list[Part] | None = None
        if ctx.trainer is None:
            ctx.note("not trained: without labels steps and widths are calibrated only")
            parts = [_unlabelled(program, ctx)]
        return quantise(program, parts, ctx.trainer, recipe, ctx.note)

    def _recipe(self, program: Program, ctx: PassContext) -> Recipe:
        local = self.gradient == "local" or (self.gradient == "auto" and program.level == "node")
        target = Target(self.bits, self.memory)
        start = self.start if self.start is not None else min(8.0, math.ceil(self.bits or 4) + 2.0)
        assign = self._assign(program, ctx)
        placement = Placement(
            start, self.weight_bits, self.sum_bits, self.score_bits, assign, self.groups, self.inputs, local,
            self.containers,
        )  # fmt: skip
        rates = Rates(self.lr_bits, self.lr_steps)
        epochs = self.epochs
        if epochs is None:
            epochs = 0 if ctx.trainer is None else ctx.trainer.task.epochs
        return Recipe(
            target, placement, self.widths, self.penalty, rates, epochs, epochs // 2, self.lr, self.distil, ctx.seed
        )

    def _assign(self, program: Program, ctx: PassContext) -> Assign:
        """Return how rows find their steps; tables of nodes need the whole graph in every step."""
        if self.assign == "nearest" or ctx.mode != "full" or (ctx.data and ctx.data.num_graphs is not None):
            return "nearest"
        if ctx.trainer is not None and not isinstance(ctx.trainer.feed(program), WholeFeed):
            ctx.note("assign=nearest: trained in mini-batches, of which none holds all nodes")
            return "nearest"
        return "node"


def _unlabelled(program: Program, ctx: PassContext) -> Part:
    """Return all of the data without labels."""
    import torch

    assert ctx.data is not None
    if ctx.data.y is not None and "train" in ctx.data.masks:
        return whole_part(program, ctx.data, "train")
    empty = torch.zeros(0, dtype=torch.int64)
    return Part(ctx.data.inputs, program.structure(ctx.data.inputs), empty, empty, 0)
