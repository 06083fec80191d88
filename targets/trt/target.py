"""The target `trt`: an engine of TensorRT, built ahead of time, and the ONNX model that it was built from.

In mode `graphs` sorting edges into tables is no job for TensorRT: it stays in a model of its own, `prepare.onnx`, which
ONNX Runtime runs in front of the engine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import onnx_ir as ir
import torch
from torch import fx

from gnnexport.bundle.layout import ENGINE
from gnnexport.errors import Problem, UnsupportedError
from gnnexport.program.graphs import argument, module_of
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.runtime.trt import PREPARE_FILE
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext
from gnnexport.targets.onnx.choice import Timer
from gnnexport.targets.onnx.executed import executed, operands_of
from gnnexport.targets.onnx.files import sizes_by_origin, write
from gnnexport.targets.onnx.quantised_forms import Form
from gnnexport.targets.onnx.request import lower_graphs
from gnnexport.targets.onnx.request_choice import dense_refused, describe
from gnnexport.targets.onnx.shares import Profiler
from gnnexport.targets.onnx.sparse_weights import weights_of
from gnnexport.targets.onnx.split_prepare import split_prepare
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.ort import OLDEST
from gnnexport.targets.trt.engine import WHERE, Engine, Library, build_engine, choose_library
from gnnexport.targets.trt.request import (
    Limits,
    Profile,
    features_of,
    is_open,
    profile_of,
    several_kinds,
    unreached,
)
from gnnexport.targets.trt.sparsity import PATTERN, left_to_engine, two_of_four

Rows = tuple[Mapping[str, Any], ...]

aten = torch.ops.aten

_SCATTERS = (
    aten.scatter_add.default,
    aten.scatter_reduce.two,
    aten.scatter.reduce,
    aten.scatter.value_reduce,
    aten.index_add.default,
    aten.index_reduce.default,
)


_OF_STRUCTURE = {"ScatterElements", "ScatterND", "TopK", "NonZero", "Unique", "If", "Loop", "Scan"}
"""Operators that belong in front of an engine."""


@dataclass(frozen=True)
class TrtTarget(OnnxTarget):
    """TensorRT on an NVIDIA GPU: the engine is built here, with or without a GPU, and proven on its ONNX model."""

    name: ClassVar[str] = "trt"
    runtime: ClassVar[str] = "trt"
    branches: ClassVar[bool] = False
    block_bytes: ClassVar[int] = 256 << 20
    """A GPU gains nothing from blocks that fit a cache; they only bound its memory."""

    sparse_pattern: ClassVar[str | None] = PATTERN

    forms: ClassVar[tuple[Form, ...]] = ("float",)
    aggregate: Literal["ell", "dense"] = "ell"
    """Lowering of aggregation: TensorRT has no scatter that reduces, and without a GPU nothing can be timed."""
    quantised: Literal["auto", "float"] = "auto"
    """Quantised operands are computed with as the floats that they stand for."""
    threads: int | None = None
    """Threads of the ONNX model where it stands in for the engine; all of the machine's by default."""
    library: Library = "auto"
    """What builds: tensorrt where it is installed beside a GPU, else TensorRT for RTX, which needs none."""
    tf32: bool = False
    """Let products of float32 be rounded to 10 bits of mantissa: faster, and off by about a thousandth."""
    workspace_mb: int | None = None
    """Megabytes that values in between may take; no limit by default."""
    max_nodes: int | None = None
    """Most nodes of a request in mode graphs; four times those of the sample by default, as all that follow."""
    max_edges: int | None = None
    """Most edges of a request."""
    max_degree: int | None = None
    """Most edges into one node."""
    max_graphs: int | None = None
    """Most graphs of a request."""
    max_graph_nodes: int | None = None
    """Most nodes of one graph."""
    max_pairs: int | None = None
    """Most pairs of a request, for link prediction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        told = {f"max_{name}": value for name, value in self._told().items()}
        for name, value in {"workspace_mb": self.workspace_mb, **told}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")

    def check(self, program: Program, mode: Mode = "full") -> list[Problem]:
        """Name each op that ONNX or TensorRT lacks, and each limit that bounds nothing."""
        if mode == "batched":
            what = "builds no engines for the blocks of mode batched"
            return [Problem(WHERE, what, "Use --target=ort or openvino, or --mode full")]
        problems = [*scattering(program), *several_kinds(program, mode, WHERE)]
        return super().check(program, mode) + problems + unreached(program, mode, self._told(), WHERE)

    def emit(self, dialect: DialectModel, folder: Path, ctx: EmitContext) -> Artefact:
        """Lower the dialect without scatter, write that, and build its engine.

        The graph is baked in, or in mode `graphs` left to a model in front.

        Raises:
            UnsupportedError: an op that TensorRT cannot do, each named; a lowering that needs one graph; or limits
                with which tables become too large.
            MissingExtraError: no TensorRT is installed, or in mode `graphs` no ONNX Runtime.
        """
        if dialect.mode == "graphs" and self.aggregate == "dense":
            raise UnsupportedError(dense_refused())
        ctx = replace(ctx, decisions=_without_scatter(ctx))
        library = choose_library(self._library(ctx.decisions))
        threads = self.threads or ctx.threads
        model, front, lowering = self._parts(dialect, ctx)
        refuse_scatter(model)
        marked = two_of_four(model.graph)
        files = write(model, folder, compress=False)
        prepare = None if front is None else write_prepare(front, folder)
        asked = dialect if dialect.mode == "graphs" else replace(dialect, model=model)
        profile, largest = self._bounds(asked, model, prepare, threads)
        guessed = [name for name in largest if getattr(self, name) is None]
        if asked.generated and guessed:
            ctx.note(
                f"{ENGINE} is bounded by generated graphs, not by yours: it refuses whatever is larger. "
                f"Give --data, or set {', '.join(guessed)}"
            )
        workspace = None if self.workspace_mb is None else self.workspace_mb << 20
        path = folder / files[0]
        engine = build_engine(
            path, library, tf32=self.tf32, workspace_bytes=workspace, profile=profile, sparse=bool(marked)
        )
        (folder / ENGINE).write_bytes(engine.plan)
        ctx.note(_built(engine, largest))
        if marked:
            ctx.note(
                f"{len(marked)} matrices of pattern {PATTERN}: TensorRT may choose its sparse kernels for "
                "them, and does not tell whether it does"
            )
        files = (ENGINE, *files, *([] if prepare is None else [prepare.name]))
        models = (model,) if front is None else (model, front)
        operands = executed(operands_of(dialect.model.graph), model.graph, {}, {})
        return Artefact(
            model_file=ENGINE,
            files=files,
            decisions={
                "lowerings": {row["op"]: row["chosen"] for row in lowering},
                "threads": threads,
                "library": engine.library,
            },
            sizes=sizes_by_origin(models, folder, files, dialect.mode),
            lowering=(*lowering, *(operand.row() for operand in operands)),
            requirements=_requirements(models, engine, largest),
            prepare="baked" if dialect.mode == "full" else "model" if front is None else "runtime",
            operands=operands,
            weights=left_to_engine(weights_of(models, {}), marked),
        )

    def _bounds(
        self, asked: DialectModel, model: ir.Model, prepare: Path | None, threads: int
    ) -> tuple[Profile | None, dict[str, int]]:
        """Return what the engine is given, and the limits of a request by the names of the options.

        Args:
            asked: its inputs are those of a request; where all their sizes are fixed there is nothing to bound.
            model: that the engine is built from.
            prepare: the model in front, if any.
            threads: for running that.
        """
        if not is_open(asked.model):
            return None, {}
        limits = Limits.of(asked, self._told())
        limits.check(WHERE)
        return profile_of(asked, model, prepare, limits, threads), limits.named(asked)

    def _parts(self, dialect: DialectModel, ctx: EmitContext) -> tuple[ir.Model, ir.Model | None, Rows]:
        """Return the model for the engine, the one in front of it if any, and the rows of the report's `lowering`."""
        if dialect.mode == "full":
            model, choices = self.lowered(dialect, ctx)
            return model, None, tuple(choices.rows)
        front, model = split_features(dialect, ctx.note)
        row = {"op": describe(dialect.model), "chosen": "ell", "candidates": [{"name": "ell", "latency_ms": None}]}
        return model, front if front.graph.outputs else None, (row,)

    def _told(self) -> dict[str, int | None]:
        """Return the limits by their names in `Limits`."""
        return {field.name: getattr(self, f"max_{field.name}") for field in fields(Limits)}

    def timer(self, threads: int) -> Timer | None:
        """Return nothing: what is fast on a processor says little about a GPU."""
        del threads
        return None

    def profiler(self, threads: int) -> Profiler | None:
        """Return nothing, for the same reason."""
        del threads
        return None

    def _library(self, decisions: Mapping[str, Any] | None) -> Library:
        """Build with what built before, unless told."""
        known = (decisions or {}).get("library")
        return (
            cast(Library, known) if self.library == "auto" and known in ("tensorrt", "tensorrt_rtx") else self.library
        )


def split_features(dialect: DialectModel, note: Callable[[str], None]) -> tuple[ir.Model, ir.Model]:
    """Return what runs in front of the engine, and what it is built from, for graphs of any size.

    Features of nodes go to the engine, and so do those of edges unless the model scatters them, as it does where it
    gives self-loops the mean of a node's edges.
    """
    tables = lower_graphs(dialect.model, fallback=False)
    inputs = {str(value.name) for value in dialect.model.graph.inputs}
    of_nodes, features = (features_of(dialect.model, edges=edges) for edges in (False, True))
    front, model = split_prepare(tables, inputs - features, int32=True)
    if features == of_nodes or not any(node.op_type in _OF_STRUCTURE for node in model.graph):
        return front, model
    note(f"edge features go through {PREPARE_FILE} on the processor: the model sorts or scatters them")
    return split_prepare(tables, inputs - of_nodes, int32=True)


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


def write_prepare(model: ir.Model, folder: Path) -> Path:
    """Write and check the model that runs in front of an engine; return its path."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        (name,) = write(model, Path(scratch))
        return (Path(scratch) / name).rename(folder / PREPARE_FILE)


def _built(engine: Engine, largest: Mapping[str, int]) -> str:
    where = ", ".join(engine.compute_capabilities) or "that of this GPU"
    counts = ", ".join(f"{count:,} {name.removeprefix('max_')}" for name, count in largest.items())
    requests = f", for requests of up to {counts}" if counts else ""
    return (
        f"{ENGINE} ({len(engine.plan):,} bytes) was built by {engine.library} {engine.version} "
        f"for compute capability {where}{requests}"
    )


def _requirements(models: Sequence[ir.Model], engine: Engine, largest: Mapping[str, int]) -> dict[str, Any]:
    """Say what a machine needs; whatever runs in front of the engine needs ONNX Runtime."""
    runs_in_front = len(models) > 1
    engines = {engine.library: f"=={engine.version}", **({"onnxruntime": f">={OLDEST}"} if runs_in_front else {})}
    ours = ("onnx", "onnxruntime") if runs_in_front else ("onnx",)
    return {
        **largest,
        **engines,
        "device": "NVIDIA GPU",
        "compute_capabilities": list(engine.compute_capabilities),
        "opset": max(model.graph.opset_imports[""] for model in models),
        "ir_version": max(int(model.ir_version) for model in models),
        "versions": {engine.library: engine.version, **{name: version(name) for name in ours}},
    }
