"""The target `ort`: ONNX Runtime on the processor, with our own kernels where they may be called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from gnnexport.errors import MissingExtraError
from gnnexport.native.library import how_to_mend, path_name, why_missing
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext
from gnnexport.targets.onnx.choice import NATIVE
from gnnexport.targets.onnx.native import serves
from gnnexport.targets.onnx.target import OnnxTarget

OLDEST = "1.18"
"""First release of ONNX Runtime that reads IR version 10, which is what is written."""


@dataclass(frozen=True)
class OrtTarget(OnnxTarget):
    """ONNX Runtime on the processor: the lowerings are timed there."""

    name: ClassVar[str] = "ort"
    has_kernels: ClassVar[bool] = True

    portable: bool = False
    """Use standard operators only, so that the model runs where our kernels are not installed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.portable and self.aggregate == NATIVE:
            raise ValueError("portable forbids the kernels that aggregate=native asks for; leave one of them out")

    def may_go_native(self, graph: ir.Graph) -> bool:
        """Tell whether the kernels are allowed, installed, and can run what a model holds of the dialect.

        Raises:
            MissingExtraError: they were asked for and are not installed.
        """
        missing = why_missing()
        if missing is not None and self.aggregate == NATIVE:
            raise MissingExtraError.at("target", f"aggregate=native asks for the kernels, and {missing}", how_to_mend())
        return not self.portable and missing is None and serves(graph)

    def emit(self, dialect: DialectModel, folder: Path, ctx: EmitContext) -> Artefact:
        """Write the model, and say which ONNX Runtime it needs and how many threads were decided.

        Raises:
            UnsupportedError: an input has no size although the graph is fixed, or the lowering cannot serve the mode.
            MissingExtraError: kernels that were asked for are not installed.
        """
        artefact = super().emit(dialect, folder, ctx)
        decisions = {**artefact.decisions, "kernels": path_name()} if artefact.native else artefact.decisions
        requirements = {**artefact.requirements, "onnxruntime": f">={OLDEST}"}
        return replace(artefact, decisions=decisions, requirements=requirements)
