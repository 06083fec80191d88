"""Round weights and gathered rows to 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gnnexport.errors import Problem, UnsupportedError
from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.passes.fold_norms import FoldNorms
from gnnexport.program.graphs import parameter_of
from gnnexport.program.halves import (
    DTYPES,
    Half,
    gathered_rows,
    largest_magnitudes,
    matrices,
    round_matrices,
    round_rows,
)
from gnnexport.program.program import Program


@dataclass(frozen=True)
class Cast(Pass):
    """Keep weights in 16 bits in the model's files, and gather rows of 16 bits; sums and products stay float32.

    Half the bytes of a row is half of what a gather moves, where our own kernels read such rows; elsewhere rounding
    them gains nothing, and the report says that it is simulated.
    """

    name: ClassVar[str] = "cast"
    stage: ClassVar[Stage] = Stage.COMPRESS
    turn: ClassVar[int] = 40
    ladder: ClassVar[tuple[str, ...]] = ("to=bf16", "to=bf16,rows=false")
    to: Half = "bf16"
    """`bf16` has the range of float32 and 8 significant bits, `fp16` has 11 of them and ends at 65,504."""
    weights: bool = True
    """Round matrices of weights; files hold them in 16 bits, and whoever loads them widens them."""
    rows: bool = True
    """Round rows before they are gathered and reduced."""

    def __post_init__(self) -> None:
        if not self.weights and not self.rows:
            raise ValueError("weights=false and rows=false leave nothing to cast. Drop one of them")

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse a Program with nothing to cast, and weights beyond what 16 bits reach."""
        if program.prepare is None:
            return [Problem(self.name, "the Program is not split yet", "Run raise-messages and split-structure first")]
        program = program.clone().train(False)
        program.annotate()
        weights = matrices(program) if self.weights else []
        if not weights and not (self.rows and gathered_rows(program)):
            return [Problem(self.name, "finds nothing in 32 bits to cast", "Drop this pass")]
        return [
            self._too_large(str(node.target), float(value.detach().abs().max()))
            for node in weights
            if (value := parameter_of(program.body, node)) is not None
            if value.numel() and float(value.detach().abs().max()) > torch.finfo(DTYPES[self.to]).max
        ]

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the Program with rounded numbers.

        Raises:
            UnsupportedError: rows reach beyond what 16 bits hold.
        """
        # A normalisation folded in afterwards would make numbers of 32 bits of the weights again.
        program = FoldNorms().run(program, ctx) if self.weights else program.clone().train(False)
        program.annotate()
        if self.rows:
            values = gathered_rows(program)
            if ctx.data is not None:
                found = largest_magnitudes(program, values, ctx.data.inputs)
                most = torch.finfo(DTYPES[self.to]).max
                problems = [self._too_large(node.name, value) for node, value in found.items() if not value <= most]
                if problems:
                    raise UnsupportedError(*problems)
            round_rows(program, values, self.to)
            ctx.note(f"{len(values)} values are gathered in rows of {self.to}")
        if self.weights:
            ctx.note(
                f"{round_matrices(program, self.to):,} weights rounded to {self.to}; they are computed with in float32"
            )
        return program

    def _too_large(self, name: str, value: float) -> Problem:
        return Problem(self.name, f"{name} reaches {value:.3g}, which {self.to} cannot hold", "Use to=bf16")
