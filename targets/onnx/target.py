"""The targets `onnx` and `ort`: standard operators, for any runtime and for ONNX Runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from gnnexport.targets.contract import Artefact, DialectModel, EmitContext, Target
from gnnexport.targets.onnx.bake import bake
from gnnexport.targets.onnx.choice import Choices, Lowering
from gnnexport.targets.onnx.files import MODEL_FILE, sizes_by_origin, write
from gnnexport.targets.onnx.lower import lower
from gnnexport.targets.onnx.softmax import expand_softmax


@dataclass(frozen=True)
class OnnxTarget(Target):
    """An ONNX model in standard operators, for one graph; runs in any runtime."""

    name: ClassVar[str] = "onnx"
    runtime: ClassVar[str] = "ort"

    aggregate: Lowering = "auto"
    """Lowering of aggregation; `auto` picks by timing where ONNX Runtime is installed, else by estimate."""
    threads: int | None = None
    """Threads that inference may use; all of the machine's by default."""

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
            requirements={"opset": model.graph.opset_imports[""], "ir_version": model.ir_version},
        )

    def lowered(self, dialect: DialectModel, ctx: EmitContext) -> tuple[ir.Model, Choices]:
        """Return the model in standard operators and how its lowerings were chosen."""
        model = bake(dialect)
        expand_softmax(model.graph)
        choices = Choices(self.aggregate, ctx, _timer(self.threads or ctx.threads))
        lower(model.graph, choices, ctx.note)
        return model, choices


def _timer(threads: int) -> Callable[[ir.Model, int], Callable[[], object]] | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    from gnnexport.targets.onnx.session import open_model

    return lambda model, seed: open_model(model, threads, seed)
