"""The targets `onnx` and `ort`: standard operators, for any runtime and for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from gnnexport.errors import Problem
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext, Target
from gnnexport.targets.onnx.bake import bake
from gnnexport.targets.onnx.choice import NATIVE, Choices, Lowering, Timer
from gnnexport.targets.onnx.ell import BLOCK_BYTES
from gnnexport.targets.onnx.empty import fill_empty
from gnnexport.targets.onnx.files import MODEL_FILE, sizes_by_origin, write
from gnnexport.targets.onnx.lower import lower
from gnnexport.targets.onnx.native import goes_native, keep_native
from gnnexport.targets.onnx.request_choice import dense_refused, lower_chosen
from gnnexport.targets.onnx.softmax import expand_softmax
from gnnexport.targets.onnx.support import unsupported


@dataclass(frozen=True)
class OnnxTarget(Target):
    """An ONNX model in standard operators, for one graph or for any; runs in any runtime."""

    name: ClassVar[str] = "onnx"
    runtime: ClassVar[str] = "ort"
    branches: ClassVar[bool] = True
    """Whether the engine can be trusted with `If`."""

    block_bytes: ClassVar[int] = BLOCK_BYTES
    """Bytes of gathered rows that the engine should work on at a time."""

    aggregate: Lowering = "auto"
    """Lowering of aggregation; `auto` picks by timing where ONNX Runtime is installed, else by estimate."""
    threads: int | None = None
    """Threads that inference may use; all of the machine's by default."""

    has_kernels: ClassVar[bool] = False
    """Whether the runtime can call our own kernels."""

    prepares_edges: ClassVar[bool] = False
    """Whether it can call those that prepare the edges of a request in one go."""

    def __post_init__(self) -> None:
        if self.aggregate == NATIVE and not self.has_kernels:
            raise ValueError("aggregate=native needs a runtime that can call our kernels, as ort can")
        if self.threads is not None and self.threads < 1:
            raise ValueError("threads must be at least 1")

    def check(self, program: Program, mode: Mode = "full") -> list[Problem]:
        """Name each op that has no ONNX translation: of the body, and of `prepare` where the model computes it too."""
        refused = [dense_refused()] if mode != "full" and self.aggregate == "dense" else []
        return refused + unsupported(program, mode)

    def emit(self, dialect: DialectModel, folder: Path, ctx: EmitContext) -> Artefact:
        """Bake the graph in where it is fixed, lower the dialect, write and check the file.

        Raises:
            UnsupportedError: an input has no size although the graph is fixed, or the lowering cannot serve the mode.
        """
        model, choices = self.lowered(dialect, ctx)
        files = write(model, folder)
        return Artefact(
            model_file=MODEL_FILE,
            files=files,
            decisions=choices.record(self.threads or ctx.threads),
            sizes=sizes_by_origin([model], folder, files, dialect.mode),
            lowering=tuple(choices.rows),
            requirements={
                "opset": model.graph.opset_imports[""],
                "ir_version": model.ir_version,
                "versions": {name: version(name) for name in ("onnx", "onnxruntime") if find_spec(name)},
            },
            prepare="baked" if dialect.mode == "full" else "model",
            native=choices.calls_kernels,
            inputs=tuple(str(value.name) for value in model.graph.inputs),
        )

    def lowered(self, dialect: DialectModel, ctx: EmitContext) -> tuple[ir.Model, Choices]:
        """Return the model in standard operators and how its lowerings were chosen."""
        native = self.may_go_native(dialect.model.graph, ctx.note)
        choices = Choices(self.aggregate, ctx, self.timer(self.threads or ctx.threads), native)
        if dialect.mode != "full":
            return lower_chosen(dialect, choices, branches=self.branches, edges=self.prepares_edges), choices
        model = bake(dialect)
        if native:
            fill_empty(model.graph)
        if native and goes_native(model.graph, choices):
            keep_native(model.graph, choices.kernels)
            return model, choices
        expand_softmax(model.graph)
        lower(model.graph, choices, ctx.note, self.block_bytes)
        return model, choices

    def may_go_native(self, graph: ir.Graph, note: Callable[[str], None]) -> bool:
        """Tell whether our own kernels may and can run what a model holds of the dialect."""
        del graph, note
        return False

    def timer(self, threads: int) -> Timer | None:
        """Return what opens a model to be timed on the engine of this target; `None` where it is not installed."""
        if find_spec("onnxruntime") is None:
            return None
        from gnnexport.targets.onnx.session import open_model

        return lambda model, feeds: open_model(model, threads, feeds)
