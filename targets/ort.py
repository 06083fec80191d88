"""The target `ort`: ONNX Runtime on the processor, with our own kernels where they may be called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from gnnexport.targets.contract import Artefact, DialectModel, EmitContext
from gnnexport.targets.onnx.choice import Choices
from gnnexport.targets.onnx.halves import round_rows
from gnnexport.targets.onnx.native_target import NativeTarget
from gnnexport.targets.onnx.quantised_forms import PACKED, Form

OLDEST = "1.18"
"""First release of ONNX Runtime that reads IR version 10, which is what is written."""


@dataclass(frozen=True)
class OrtTarget(NativeTarget):
    """ONNX Runtime on the processor: the lowerings are timed there."""

    name: ClassVar[str] = "ort"
    prepares_edges: ClassVar[bool] = True
    forms: ClassVar[tuple[Form, ...]] = ("float", "integer", *PACKED)

    def emit(self, dialect: DialectModel, folder: Path, ctx: EmitContext) -> Artefact:
        """Write the model, and say which ONNX Runtime it needs and how many threads were decided.

        Raises:
            UnsupportedError: an input has no size although the graph is fixed, or the lowering cannot serve the mode.
            MissingExtraError: kernels that were asked for are not installed.
        """
        artefact = super().emit(dialect, folder, ctx)
        requirements = {**artefact.requirements, "onnxruntime": f">={OLDEST}"}
        return replace(artefact, requirements=requirements)

    def lowered(self, dialect: DialectModel, ctx: EmitContext) -> tuple[ir.Model, Choices]:
        """Return the model and how its lowerings were chosen; the kernels round rows, for which its `Cast` is slow."""
        model, choices = super().lowered(dialect, ctx)
        round_rows(model.graph)
        return model, choices
