"""The target `trt`: an engine of TensorRT, built ahead of time, and the ONNX model that it was built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import onnx_ir as ir
import torch
from torch import fx

from gnnexport.errors import Problem, UnsupportedError
from gnnexport.program.graphs import argument, module_of
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext
from gnnexport.targets.onnx.choice import Timer
from gnnexport.targets.onnx.files import sizes_by_origin, write
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.trt.engine import WHERE, Engine, Library, build_engine, choose_library

ENGINE_FILE = "model.engine"

aten = torch.ops.aten

_SCATTERS = (
    aten.scatter_add.default,
    aten.scatter_reduce.two,
    aten.scatter.reduce,
    aten.scatter.value_reduce,
    aten.index_add.default,
    aten.index_reduce.default,
)


@dataclass(frozen=True)
class TrtTarget(OnnxTarget):
    """TensorRT on an NVIDIA GPU: the engine is built here, with or without a GPU, and proven on its ONNX model."""

    name: ClassVar[str] = "trt"
    runtime: ClassVar[str] = "trt"
    branches: ClassVar[bool] = False
    block_bytes: ClassVar[int] = 256 << 20
    """A GPU gains nothing from blocks that fit a cache; they only bound its memory."""

    aggregate: Literal["ell", "dense"] = "ell"
    """Lowering of aggregation: TensorRT has no scatter that reduces, and without a GPU nothing can be timed."""
    threads: int | None = None
    """Threads of the ONNX model where it stands in for the engine; all of the machine's by default."""
    library: Library = "auto"
    """What builds: tensorrt where it is installed beside a GPU, else TensorRT for RTX, which needs none."""
    tf32: bool = False
    """Let products of float32 be rounded to 10 bits of mantissa: faster, and off by about a thousandth."""
    workspace_mb: int | None = None
    """Megabytes that values in between may take; no limit by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise ValueError("workspace_mb must be at least 1")

    def check(self, program: Program, mode: Mode = "full") -> list[Problem]:
        """Name each op that ONNX or TensorRT lacks."""
        if mode != "full":
            what = f"mode '{mode}' is not available for TensorRT in this version"
            return [Problem(WHERE, what, "Use --mode full, or --target=ort")]
        return super().check(program, mode) + scattering(program)

    def emit(self, dialect: DialectModel, folder: Path, ctx: EmitContext) -> Artefact:
        """Bake the graph in, lower the dialect without scatter, write that, and build its engine.

        Raises:
            UnsupportedError: an op that TensorRT cannot do, each named.
            MissingExtraError: no TensorRT is installed.
        """
        ctx = replace(ctx, decisions=_without_scatter(ctx))
        library = choose_library(self._library(ctx.decisions))
        model, choices = self.lowered(dialect, ctx)
        refuse_scatter(model)
        files = write(model, folder)
        limit = None if self.workspace_mb is None else self.workspace_mb << 20
        engine = build_engine(folder / files[0], library, tf32=self.tf32, workspace_bytes=limit)
        (folder / ENGINE_FILE).write_bytes(engine.plan)
        ctx.note(_built(engine))
        files = (ENGINE_FILE, *files)
        return Artefact(
            model_file=ENGINE_FILE,
            files=files,
            decisions={
                "lowerings": dict(choices.decisions),
                "threads": self.threads or ctx.threads,
                "library": engine.library,
            },
            sizes=sizes_by_origin(model, folder, files, dialect.mode),
            lowering=tuple(choices.rows),
            requirements=_requirements(model, engine),
        )

    def timer(self, threads: int) -> Timer | None:
        """Return nothing: what is fast on a processor says little about a GPU."""
        del threads
        return None

    def _library(self, decisions: Mapping[str, Any] | None) -> Library:
        """Build with what built before, unless told."""
        known = (decisions or {}).get("library")
        return (
            cast(Library, known) if self.library == "auto" and known in ("tensorrt", "tensorrt_rtx") else self.library
        )


def scattering(program: Program) -> list[Problem]:
    """Return one problem for each op of the body that adds up by scattering: message passing that was not raised."""
    return [
        Problem(
            module_of(node), f"{node.target} scatters with a reduction, which TensorRT cannot do", "Use --target=ort"
        )
        for node in program.body.graph.nodes
        if node.op == "call_function" and _scatters(node)
    ]


def _scatters(node: fx.Node) -> bool:
    return node.target in _SCATTERS or (node.target == aten.index_put.default and bool(argument(node, 3, "accumulate")))


def refuse_scatter(model: ir.Model) -> None:
    """Make sure that nothing in the model scatters with a reduction.

    Raises:
        UnsupportedError: one problem for each node that does.
    """
    found = [
        node
        for node in model.graph
        if node.op_type.startswith("Scatter") and node.attributes.get_string("reduction", "none") != "none"
    ]
    if found:
        what = "scatters with a reduction, which TensorRT cannot do"
        raise UnsupportedError(*(Problem(f"{WHERE}: {node.name}", what, "Use --target=ort") for node in found))


def _without_scatter(ctx: EmitContext) -> Mapping[str, Any] | None:
    """Drop decisions for scatter, as another target may have taken them."""
    if ctx.decisions is None:
        return None
    known = ctx.decisions.get("lowerings", {})
    kept = {op: name for op, name in known.items() if name != "scatter"}
    if len(kept) < len(known):
        ctx.note(f"{len(known) - len(kept)} decisions for scatter are not replayed: TensorRT cannot do it")
    return {**ctx.decisions, "lowerings": kept}


def _built(engine: Engine) -> str:
    where = ", ".join(engine.compute_capabilities) or "that of this GPU"
    return (
        f"{ENGINE_FILE} ({len(engine.plan):,} bytes) was built by {engine.library} {engine.version} "
        f"for compute capability {where}"
    )


def _requirements(model: ir.Model, engine: Engine) -> dict[str, Any]:
    return {
        "device": "NVIDIA GPU",
        "compute_capabilities": list(engine.compute_capabilities),
        engine.library: f"=={engine.version}",
        "opset": model.graph.opset_imports[""],
        "ir_version": model.ir_version,
        "versions": {engine.library: engine.version, "onnx": version("onnx")},
    }
