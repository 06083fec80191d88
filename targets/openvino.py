"""The target `openvino`: OpenVINO on the processor, in its own file format."""

from __future__ import annotations

import errno
import hashlib
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.errors import Problem, UnsupportedError
from gnnexport.native.openvino_extension import extension
from gnnexport.program.halves import half_of
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.runtime.openvino import DEVICE, import_openvino, infer, open_core, reason, settings
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.batches import repeat_for_batches
from gnnexport.targets.onnx.choice import Choices, Lowering, Timer
from gnnexport.targets.onnx.files import MODEL_FILE as ONNX_FILE
from gnnexport.targets.onnx.files import write
from gnnexport.targets.onnx.halves import gathered_halves
from gnnexport.targets.onnx.native_target import NativeTarget
from gnnexport.targets.onnx.quantised_forms import Form
from gnnexport.targets.onnx.quantisers import OF_LEVELS
from gnnexport.targets.onnx.shares import PROFILED_RUNS, Profiler, Timed
from gnnexport.targets.onnx.sparse_weights import weights_of
from gnnexport.targets.onnx.tape import FOLDED, OF_GRAPH

WHERE = "target openvino"
MODEL_FILE = "model.xml"
DATA_FILE = "model.bin"

_REDUCTIONS = {
    "ReduceSum": "reduce_sum", "ReduceMean": "reduce_mean", "ReduceMax": "reduce_max", "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod", "ReduceL1": "reduce_l1", "ReduceL2": "reduce_l2",
}  # fmt: skip

OLDEST = "2025.0"
"""Oldest release of OpenVINO that was seen to read what the newest writes."""


@dataclass(frozen=True)
class OpenVinoTarget(NativeTarget):
    """OpenVINO on the processor, in float32: the lowerings are timed there."""

    name: ClassVar[str] = "openvino"
    runtime: ClassVar[str] = "openvino"
    engine: ClassVar[str] = "openvino"
    prepares_edges: ClassVar[bool] = True
    branches: ClassVar[bool] = False
    """OpenVINO reuses the memory of values that a branch still reads: answers are wrong, without an error."""

    forms: ClassVar[tuple[Form, ...]] = ("float",)
    """OpenVINO computes `MatMulInteger` in float32, where sums beyond 2^24 are no longer exact."""

    aggregate: Lowering = "auto"
    """Lowering of aggregation; `auto` picks by timing on OpenVINO."""
    quantised: Literal["auto", "float"] = "auto"
    """Quantised operands are computed with as the floats that they stand for."""

    def check(self, program: Program, mode: Mode = "full") -> list[Problem]:
        """Name each op that cannot be translated, and rows of fp16: OpenVINO's processors have no such numbers."""
        rounded = [node.name for node in program.body.graph.nodes if half_of(node) == "fp16"]
        what = "computes fp16 in float32, so that rows rounded to it would not be"
        problems = [Problem(WHERE, what, "Use cast{to=bf16}, or cast{to=fp16,rows=false}")] if rounded else []
        return super().check(program, mode) + problems

    def emit(self, dialect: DialectModel, folder: Path, ctx: EmitContext) -> Artefact:
        """Bake the graph in where it is fixed, lower the dialect or leave it to our kernels, and convert that.

        Raises:
            UnsupportedError: an input has no size although the graph is fixed, or the lowering cannot serve the mode.
            UnsupportedError: OpenVINO cannot convert an operator.
            MissingExtraError: OpenVINO is not installed, or kernels that were asked for are not.
            OSError: the files cannot be written.
        """
        engine = import_openvino(WHERE)
        model, choices = self.lowered(dialect, ctx)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            write(model, Path(scratch))
            converted = _convert(engine, Path(scratch) / ONNX_FILE, choices.calls_kernels)
            _keep_ties_in_order(converted)
            _reduce_rows_of_four_dimensions(converted)
            _name(converted, model)
            _save(engine, converted, folder / MODEL_FILE)
        files = (MODEL_FILE, DATA_FILE)
        total = sum((folder / name).stat().st_size for name in files)
        return Artefact(
            model_file=MODEL_FILE,
            files=files,
            decisions=choices.record(self.threads or ctx.threads),
            sizes=_sizes_by_origin(converted, model, total, dialect.mode),
            lowering=choices.report,
            requirements={"openvino": f">={OLDEST}", "versions": {"openvino": engine.__version__.partition("-")[0]}},
            prepare="baked" if dialect.mode == "full" else "model",
            native=choices.calls_kernels,
            inputs=tuple(str(value.name) for value in model.graph.inputs),
            halves=gathered_halves(model.graph),
            operands=choices.operands,
            weights=weights_of([model], choices.sparse),
        )

    def lowered(self, dialect: DialectModel, ctx: EmitContext) -> tuple[ir.Model, Choices]:
        """Return the model in operators that OpenVINO computes rightly, and how its lowerings were chosen."""
        model = dialect.model.clone()
        repeat_for_batches(model.graph)
        return super().lowered(replace(dialect, model=model), ctx)

    def open_kernels(self) -> None:
        """Build the kernels' extension for the installed OpenVINO, unless it was built before.

        Raises:
            MissingExtraError: the kernels cannot serve, or the extension cannot be built.
        """
        extension(import_openvino(WHERE))

    def profiler(self, threads: int) -> Profiler | None:
        """Return what tells the time of each operator on OpenVINO."""
        return lambda model, feeds: _profile(model, threads, feeds)

    def timer(self, threads: int) -> Timer:
        """Return what opens a model to be timed on OpenVINO."""
        return lambda model, feeds: _open(model, threads, feeds)


def _profile(model: ir.Model, threads: int, feeds: Mapping[str, NDArray[Any]]) -> list[Timed]:
    """Compile a model, run it a few times and return the median time of each node."""
    request, given = _request(model, {**settings(threads), "PERF_COUNT": True}, feeds)
    runs: dict[tuple[str, str], list[float]] = {}
    for _ in range(PROFILED_RUNS):
        infer(request, given)
        for item in request.get_profiling_info():
            runs.setdefault((item.node_name, item.node_type), []).append(item.real_time.total_seconds() * 1000)
    return [Timed(name, kind, statistics.median(ms[1:])) for (name, kind), ms in runs.items()]


def _open(model: ir.Model, threads: int, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
    """Compile a model and return a function that runs it once on inputs given by name."""
    request, given = _request(model, settings(threads), feeds)
    return lambda: infer(request, given)


def _request(
    model: ir.Model, configuration: Mapping[str, Any], feeds: Mapping[str, NDArray[Any]]
) -> tuple[Any, list[NDArray[Any]]]:
    """Return a request of a compiled model, and its inputs in order."""
    core = open_core(import_openvino(WHERE), native=schemas.DOMAIN in model.graph.opset_imports)
    read = core.read_model(ir.to_proto(model).SerializeToString())
    request = core.compile_model(read, DEVICE, dict(configuration)).create_infer_request()
    return request, [feeds[str(value.name)] for value in model.graph.inputs]


def _convert(engine: Any, path: Path, native: bool) -> Any:
    core = open_core(engine, native=native)
    try:
        return core.read_model(path)
    except RuntimeError as error:
        what = f"openvino {engine.__version__} cannot convert the model ({reason(error)})"
        raise UnsupportedError.at(WHERE, what, "Use --target=ort, or run: pip install --upgrade openvino") from error


def _keep_ties_in_order(converted: Any) -> None:
    """Let `TopK` give equal values in the order of their places, as ONNX wants it and OpenVINO's reader forgets.

    Sorts of features need it. OpenVINO compares all pairs then: 40,000 numbers take ten seconds instead of hundredths.
    What sorts destinations has one dimension and does without.
    """
    from openvino import opset11
    from openvino.utils import replace_node

    for node in converted.get_ordered_ops():
        if node.get_type_name() != "TopK":
            continue
        rank = node.input_value(0).get_partial_shape().rank
        if rank.is_static and rank.get_length() == 1:
            continue
        given = node.get_attributes()
        told = (given["axis"], given["mode"], given["sort"], given["index_element_type"])
        stable = opset11.topk(node.input_value(0), node.input_value(1), *told, stable=True)
        stable.set_friendly_name(node.get_friendly_name())
        replace_node(node, stable)


def _reduce_rows_of_four_dimensions(converted: Any) -> None:
    """Give what reduces the last of three dimensions one more in front of it.

    OpenVINO 2026.4 merges a number for each channel behind such a reduction into it, as a factor, and reads the numbers
    past their end: answers are wrong, and others in every run. Of four dimensions it does not.
    """
    from openvino import opset13
    from openvino.utils import replace_node

    for node in converted.get_ordered_ops():
        make = getattr(opset13, _REDUCTIONS.get(node.get_type_name(), ""), None)
        if make is None or node.input_value(0).get_partial_shape().rank != 3:
            continue
        axes = node.input_value(1).get_node()
        if axes.get_type_name() != "Constant" or axes.get_data().flatten().tolist() not in ([2], [-1]):
            continue
        reduced = make(opset13.unsqueeze(node.input_value(0), np.array([1])), np.array([3]), keep_dims=True)
        rows = opset13.squeeze(reduced, np.array([1] if node.get_attributes()["keep_dims"] else [1, 3]))
        rows.set_friendly_name(node.get_friendly_name())
        replace_node(node, rows)


def _save(engine: Any, converted: Any, path: Path) -> None:
    try:
        # Floats would be halved by default.
        engine.save_model(converted, path, compress_to_fp16=False)
    except RuntimeError as error:
        # It does not say why. The folder took the ONNX file a moment ago, so that the disk must be full.
        raise OSError(errno.ENOSPC, reason(error), str(path)) from error


def _name(converted: Any, model: ir.Model) -> None:
    """Leave one name on each input and output, and no name that counts what this process converted before."""
    for ports, values in ((converted.inputs, model.graph.inputs), (converted.outputs, model.graph.outputs)):
        for port, value in zip(ports, values, strict=True):
            port.get_tensor().set_names({value.name})
    for index, node in enumerate(converted.get_ordered_ops()):
        if node.get_friendly_name() == node.get_name():
            node.set_friendly_name(f"{node.get_type_name()}_{index}")


def _sizes_by_origin(converted: Any, model: ir.Model, total: int, mode: Mode) -> dict[str, int]:
    """Return the bytes of weights, of the graph, of features, and of all else; equal constants are stored once."""
    found = {"weights_bytes": 0, "graph_bytes": 0}
    seen: set[bytes] = set()
    for node in converted.get_ordered_ops():
        value = model.graph.initializers.get(node.get_friendly_name())
        if value is None or value.meta.get(OF_LEVELS) or node.get_type_name() != "Constant":
            continue
        array = np.ascontiguousarray(node.data)
        digest = hashlib.sha256(array.view(np.uint8).data).digest() if array.size else b""
        if digest not in seen:
            known = value.meta.get(OF_GRAPH) or value.meta.get(FOLDED)
            of_graph = known or array.dtype.name in ("int32", "int64", "bool")
            if mode == "full" or not of_graph:
                found["graph_bytes" if of_graph else "weights_bytes"] += array.nbytes
        seen.add(digest)
    return {**found, "features_bytes": 0, "metadata_bytes": max(0, total - sum(found.values()))}
