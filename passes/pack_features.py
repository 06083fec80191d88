"""Store the features of mode `batched` in a few bits, and the rows between its stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast, get_args

import numpy as np
import torch

from gnnexport.bundle.stages import FeatureBits
from gnnexport.errors import Problem
from gnnexport.native.row_widths import choose_widths
from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.program.program import Program
from gnnexport.program.stored import Stored, is_packed, round_features

_BITS = get_args(FeatureBits)


@dataclass(frozen=True)
class PackFeatures(Pass):
    """Round the features of each node by a step of its own, and keep rows between requests with 8 bits.

    A row of features gets the fewest of 1, 2, 4 and 8 bits that bring every number as near as `bits` promise to: half a
    step where the largest magnitude of the row is the largest level. A row of 0 and one other value takes 1 bit.
    """

    name: ClassVar[str] = "pack-features"
    stage: ClassVar[Stage] = Stage.COMPRESS
    bits: int = 8
    """Most bits of a feature: 2, 4 or 8."""
    hidden: bool = True
    """Keep rows between stages with 8 bits a number and a step for each row, instead of float32."""

    def __post_init__(self) -> None:
        if self.bits not in _BITS:
            raise ValueError(f"bits must be one of {', '.join(map(str, _BITS))}. Write for example bits=8")

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse a mode that stores no features, and features that there are not or that are rounded already."""
        if ctx.mode != "batched":
            what = f"mode '{ctx.mode}' stores no features: requests bring them"
            return [Problem(self.name, what, "Use --mode batched, or drop this pass")]
        if program.prepare is None or len(program.features) != 1:
            return [Problem(self.name, "needs a split Program that reads one table of features", "Drop this pass")]
        if ctx.data is None:
            return [Problem(self.name, "needs the graph's features", "Give data with --data")]
        if is_packed(program):
            return [Problem(self.name, "the features are rounded already", "Give one pass that rounds them")]
        return []

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the Program that reads the rounded features."""
        program = program.clone()
        assert ctx.data is not None
        x = ctx.data.inputs[program.features[0].name].numpy().astype(np.float32)
        is_signed = bool((x < 0).any())
        step, bits = choose_widths(x, self.bits, is_signed=is_signed)
        stored = Stored(torch.from_numpy(step), torch.from_numpy(bits).float(), is_signed)
        round_features(program, stored)
        program.feature_bits = cast(FeatureBits, self.bits)
        taken = stored.packed(stored.rounded(torch.from_numpy(x))).nbytes
        rows = ", ".join(f"{int((bits == width).sum()):,} of {width} bits" for width in np.unique(bits))
        ctx.note(f"features take {taken:,} of {x.nbytes:,} bytes, steps and widths included: rows {rows}")
        if self.hidden:
            program.store_bits = 8
            ctx.note(
                "rows between stages are kept with 8 bits; what that costs shows in the accuracy of the bundle alone"
            )
        return program
