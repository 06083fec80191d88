"""What targets share whose runtime can call our own kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from gnnexport.errors import MissingExtraError
from gnnexport.native.library import library
from gnnexport.targets.onnx.choice import NATIVE
from gnnexport.targets.onnx.native import serves
from gnnexport.targets.onnx.quantised_forms import PACKED
from gnnexport.targets.onnx.target import OnnxTarget


@dataclass(frozen=True)
class NativeTarget(OnnxTarget):
    """A target whose lowerings may be our own kernels."""

    has_kernels: ClassVar[bool] = True

    portable: bool = False
    """Use standard operators only, so that the model runs where our kernels are not installed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.portable and self.aggregate == NATIVE:
            raise ValueError("portable forbids the kernels that aggregate=native asks for; leave one of them out")
        if self.portable and self.quantised in PACKED:
            raise ValueError(f"portable forbids the kernels that quantised={self.quantised} asks for; leave one out")

    def may_go_native(self, graph: ir.Graph, note: Callable[[str], None]) -> bool:
        """Tell whether the kernels are allowed, installed, and can run what a model holds of the dialect.

        Raises:
            MissingExtraError: they were asked for and are not installed.
        """
        if self.portable or self.aggregate not in ("auto", NATIVE) or not serves(graph):
            return False
        try:
            self.open_kernels()
        except MissingExtraError as missing:
            problem = missing.problems[0]
            if self.aggregate == NATIVE:
                what = f"aggregate=native asks for the kernels, and {problem.what}"
                raise MissingExtraError.at("target", what, problem.mend) from missing
            note(f"standard operators only: {problem}")
            return False
        return True

    def open_kernels(self) -> None:
        """Make the kernels ready for this target's runtime.

        Raises:
            MissingExtraError: they cannot serve.
        """
        library()
