"""The targets `onnx` and `ort`: standard operators, for any runtime and for ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from gnnexport.errors import Problem
from gnnexport.program.program import Program
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext, Target
from gnnexport.targets.onnx.bake import bake
from gnnexport.targets.onnx.choice import Choices, Lowering, Timer
from gnnexport.targets.onnx.files import MODEL_FILE, sizes_by_origin, write
from gnnexport.targets.onnx.lower import lower
from gnnexport.targets.onnx.softmax import expand_softmax
from gnnexport.targets.onnx.support import unsupported


@dataclass(frozen=True)
class OnnxTarget(Target):
    """An ONNX model in standard operators, for one graph; runs in any runtime."""

    name: ClassVar[str] = "onnx"
    runtime: ClassVar[str] = "ort"

    aggregate: Lowering = "auto"
    """Lowering of aggregation; `auto` picks by timing where ONNX Runtime is installed, else by estimate."""
    threads: int | None = None
    """Threads that inference may use; all of the machine's by default."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError("threads must be at least 1")

    def check(self, program: Program) -> list[Problem]:
        """Name each op of the body that has no ONNX translation."""
        return unsupported(program)

    def emit(self, dialect: DialectModel, folder: Path, ctx: EmitContext) -> Artefact:
        """Bake the graph in, lower the dialect, write and check the file.

        Raises:
            UnsupportedError: the model is not translated for one graph.
        """
        model, choices = self.lowered(dialect, ctx)
        files = write(model, folder)
        return Artefact(
            model_file=MODEL_FILE,
            files=files,
            decisions={"lowerings": dict(choices.decisions), "threads": self.threads or ctx.threads},
            sizes=sizes_by_origin(model, folder, files),
            lowering=tuple(choices.rows),
            requirements={
                "opset": model.graph.opset_imports[""],
                "ir_version": model.ir_version,
                "versions": {name: version(name) for name in ("onnx", "onnxruntime") if find_spec(name)},
            },
        )

    def lowered(self, dialect: DialectModel, ctx: EmitContext) -> tuple[ir.Model, Choices]:
        """Return the model in standard operators and how its lowerings were chosen."""
        model = bake(dialect)
        expand_softmax(model.graph)
        choices = Choices(self.aggregate, ctx, self.timer(self.threads or ctx.threads))
        lower(model.graph, choices, ctx.note)
        return model, choices

    def timer(self, threads: int) -> Timer | None:
        """Return what opens a model to be timed on the engine of this target; `None` where it is not installed."""
        if find_spec("onnxruntime") is None:
            return None
        from gnnexport.targets.onnx.session import open_model

        return lambda model, seed: open_model(model, threads, seed)
