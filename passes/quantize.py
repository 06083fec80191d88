"""Quantise weights, inputs of linear maps and what is aggregated, after training or with a little more of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from gnnexport.errors import Problem
from gnnexport.passes.contract import Mark, Pass, PassContext, Stage
from gnnexport.passes.fold_norms import FoldNorms
from gnnexport.program.data import GraphData
from gnnexport.program.factored import factor_weights
from gnnexport.program.program import Program
from gnnexport.program.quantised import is_quantised
from gnnexport.program.stored import is_packed
from gnnexport.training.parts import split_set
from gnnexport.training.plain_quantisation import Per, Plan, protect_nodes, quantise, told, unprotect
from gnnexport.training.quantisation.calibration import Range

PROTECT = 0.1
"""Largest chance of a node to be protected in training, unless told."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Round to whole numbers of few bits times a step, the same width everywhere.

    `static`: steps are calibrated on the data. `dynamic`: what a linear map reads gets its step at run time, from its
    own largest magnitude, so that no data is needed; what is aggregated then stays in float32.
    """

    name: ClassVar[str] = "quantize"
    stage: ClassVar[Stage] = Stage.COMPRESS
    turn: ClassVar[int] = 30
    ladder: ClassVar[tuple[str, ...]] = ("bits=4,train=true", "bits=8", "bits=8,mode=dynamic")
    bits: int = 8
    """Width of every quantised number, 2 to 8."""
    mode: Literal["static", "dynamic"] = "static"
    """Where steps come from."""
    per: Per | None = None
    """What shares a step: `tensor`: everything. `channel`: a channel of weights, a column of what is aggregated.
    `row`: besides, each row that a linear map reads has its own. By default `channel`, and `row` where dynamic."""
    calibrate: Range = "error"
    """`minmax`: the largest level stands for the largest magnitude; `error`: for what costs least squared error."""
    percentile: float = 100.0
    """Of magnitudes, with calibrate=minmax: what is above is clipped."""
    train: bool = False
    """Train on, rounding in every step; steps stay as they were calibrated."""
    protect: float | None = None
    """In training, chance of nodes of highest in-degree to be left unrounded, as in Degree-Quant; 0.1 by default."""
    protect_least: float = 0.0
    """That of the nodes of lowest in-degree."""
    epochs: int | None = None
    """At most this many in training; by default the task's."""
    lr: float | None = None
    """Step size of training; by default the task's."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError("bits must be 2 to 8. Write for example bits=8")
        if self.mode == "dynamic" and self.per == "channel":
            raise ValueError("steps taken at run time are of rows or of all. Write per=row or per=tensor")
        if not 50 <= self.percentile <= 100:
            raise ValueError("percentile must be in [50, 100]. Write for example percentile=99.9")
        if self.percentile < 100 and self.calibrate != "minmax":
            raise ValueError("percentile acts with calibrate=minmax alone. Add it, or drop percentile")
        for option in ("protect", "protect_least", "epochs", "lr"):
            if getattr(self, option) and not self.train:
                raise ValueError(f"{option} acts in training alone. Add train=true, or drop {option}")
        if not 0 <= self.protect_least <= self._most <= 1:
            raise ValueError("protect_least and protect must be in [0, 1], the first not above the second")
        if (self.epochs is not None and self.epochs < 0) or (self.lr is not None and self.lr <= 0):
            raise ValueError("epochs must be at least 0 and lr positive")

    @property
    def _most(self) -> float:
        return max(PROTECT, self.protect_least) if self.protect is None else self.protect

    @property
    def _plan(self) -> Plan:
        dynamic = self.mode == "dynamic"
        per: Per = self.per or ("row" if dynamic else "channel")
        return Plan(self.bits, per, self.calibrate, self.percentile, dynamic)

    @property
    def leaves(self) -> frozenset[Mark]:
        """Values are rounded."""
        return frozenset({"quantised"})

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse a Program with nothing to quantise, and what the data or its absence forbids."""
        if program.prepare is None:
            return [Problem(self.name, "the Program is not split yet", "Run raise-messages and split-structure first")]
        problems = []
        if self.mode == "static" and ctx.data is None:
            mend = "Give data with --data, or use mode=dynamic"
            problems.append(Problem(self.name, "needs features to calibrate steps on", mend))
        of_sets = ctx.mode != "full" or (ctx.data is not None and ctx.data.num_graphs is not None)
        if self.mode == "static" and self.per == "row" and of_sets:
            what = "steps of rows belong to the nodes of the one graph of mode full"
            problems.append(Problem(self.name, what, "Use mode=dynamic, which takes them at run time"))
        if self.mode == "dynamic" and self.per == "tensor" and of_sets:
            what = "one step for all rows of a request lets an answer depend on what else is asked for"
            problems.append(Problem(self.name, what, "Use per=row"))
        if self.train and ctx.trainer is None:
            problems.append(Problem(self.name, "train=true needs labels", "Give data with labels, or drop train"))
        program = program.clone().train(False)
        program.annotate()
        if ctx.mode == "batched" and is_packed(program):
            mend = "Put pack-features behind this pass"
            problems.append(Problem(self.name, "the features are packed already", mend))
        elif is_quantised(program):
            problems.append(Problem(self.name, "the Program is quantised already", "Drop one of the two passes"))
        elif not self._plan.operands(program):
            problems.append(Problem(self.name, "finds nothing in float32 to quantise", "Drop this pass"))
        return problems

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the quantised Program."""
        # A scale folded in later would have to be folded into steps too; training wants the statistics to stay.
        program = program.clone().train(False) if self.train else FoldNorms().run(program, ctx)
        program.annotate()
        if not self._plan.dynamic and factor_weights(program):
            program.annotate()
        data = None if ctx.data is None else _calibrated_on(ctx.data)
        operands = quantise(program, self._plan, None if data is None else data.inputs)
        ctx.note(f"{self.bits} bits for {told(operands)}")
        if self.train:
            program = self._trained(program, data, ctx)
        return program

    def _trained(self, program: Program, data: GraphData | None, ctx: PassContext) -> Program:
        assert ctx.trainer is not None
        assert data is not None
        program.annotate()
        if self._most and not protect_nodes(program, data.inputs, self.protect_least, self._most):
            ctx.note("nothing is protected in training: no value has a row for each node")
        program, history = ctx.trainer.fit(program, seed=ctx.seed, epochs=self.epochs, lr=self.lr)
        unprotect(program)
        metric = ctx.trainer.task.metric
        ctx.note(
            f"validation {metric} {history.validation[0]:.4f} as calibrated, {history.best:.4f} after training "
            f"(best of {len(history.validation)} at epoch {history.best_epoch})"
        )
        return program


def _calibrated_on(data: GraphData) -> GraphData:
    """Return what steps are calibrated on: of a set with labels, graphs that are trained on."""
    return data if data.y is None else split_set(data, "train")[0]
