"""Build an engine from an ONNX file, on a machine with or without a GPU."""

from __future__ import annotations

import functools
import importlib
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gnnexport.errors import MissingExtraError, Problem, UnsupportedError
from gnnexport.runtime.trt import DISTRIBUTIONS, DRIVER
from gnnexport.targets.trt.request import Profile

WHERE = "target trt"
Library = Literal["auto", "tensorrt", "tensorrt_rtx"]

_RTX = "tensorrt_rtx"
_OTHERWISE = "Use --target=ort, or replace that op in the model"
_NOT_IN_FLOAT32 = "SM75"
"""Turing has no float32 matrix product in TensorRT for RTX: asking for it refuses every model with a linear layer."""


@dataclass(frozen=True)
class Engine:
    """A serialised engine.

    Args:
        plan: the bytes that TensorRT loads.
        library: the Python module that built it.
        version: of the package, which an engine is bound to.
        compute_capabilities: of the GPUs that it runs on, such as `8.6`; empty when it is the one it was built on.
    """

    plan: bytes
    library: str
    version: str
    compute_capabilities: tuple[str, ...]


def choose_library(wanted: Library) -> str:
    """Return the module that is to build: by default the one that can do so here.

    `tensorrt` builds only on the GPU that the engine is for; TensorRT for RTX builds anywhere for several.

    Raises:
        MissingExtraError: it is not installed.
        UnsupportedError: it is not installed, and there is none to install on this system.
    """
    if wanted == "auto":
        wanted = "tensorrt" if DRIVER.exists() and find_spec("tensorrt") else "tensorrt_rtx"
    if find_spec(wanted) is None:
        if sys.platform == "darwin":
            raise UnsupportedError.at(WHERE, "TensorRT has no build for macOS", "Use --target=ort")
        extra = "gnnexport[trt]" if wanted == _RTX else "tensorrt"
        raise MissingExtraError.at(WHERE, f"needs {wanted}, which is not installed", f"Run: pip install '{extra}'")
    return wanted


def build_engine(
    path: Path, library: str, *, tf32: bool, workspace_bytes: int | None, profile: Profile | None = None,
    sparse: bool = False,
) -> Engine:  # fmt: skip
    """Build the engine of an ONNX file.

    Args:
        path: the file; external data lies beside it.
        library: the module that builds.
        tf32: whether products of float32 may be rounded to 10 bits of mantissa.
        workspace_bytes: that values in between may take; `None` for no limit.
        profile: of the inputs, where their sizes are dynamic.
        sparse: whether the builder may choose kernels for weights of which two of four are zero.

    Raises:
        MissingExtraError: the library cannot be imported.
        UnsupportedError: an op that TensorRT cannot do, each named, or an engine that it cannot build.
    """
    trt, builder, log = open_builder(library)
    network = parse(trt, builder, path, log)
    config = builder.create_builder_config()
    (config.set_flag if tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    capabilities = _ask_for_capabilities(trt, config)
    if profile is not None:
        config.add_optimization_profile(_optimization_profile(builder, network, profile))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        what = f"{library} {trt.__version__} cannot build the engine ({_last(log.lines)})"
        mend = (
            "Use --target=ort" if workspace_bytes is None else "Give more with trt{workspace_mb=...}, or leave it out"
        )
        raise UnsupportedError.at(WHERE, what, mend)
    return Engine(bytes(plan), library, metadata.version(DISTRIBUTIONS[library]), capabilities)


def parse(trt: Any, builder: Any, path: Path, log: Any) -> Any:
    """Return the strongly typed network of an ONNX file.

    Raises:
        UnsupportedError: one problem for each node that TensorRT cannot do.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(path)):
        return network
    problems = [_problem(parser.get_error(index)) for index in range(parser.num_errors)]
    raise UnsupportedError(*problems or [Problem(WHERE, f"cannot read the model ({_last(log.lines)})", _OTHERWISE)])


def _problem(error: Any) -> Problem:
    """Name the node that TensorRT cannot do, as far as it says."""
    node = f": {error.node_operator()} '{error.node_name()}'" if error.node_operator() else ""
    text = " ".join(error.desc().split()).rstrip(".")
    telling = "" if text in ("", "false") else f" ({text})"
    return Problem(f"{WHERE}{node}", f"TensorRT cannot do it: {error.code().name}{telling}", _OTHERWISE)


def open_builder(library: str) -> tuple[Any, Any, Any]:
    """Return the module, a builder and the log it writes to.

    Raises:
        MissingExtraError: the library cannot be imported.
        UnsupportedError: the library builds only where there is a GPU.
    """
    trt, log = _import(library), _log(library)
    log.lines.clear()
    try:
        return trt, trt.Builder(log), log
    except TypeError as error:
        what = f"{library} cannot build on this machine ({_last(log.lines)})"
        raise UnsupportedError.at(WHERE, what, "Use trt{library=tensorrt_rtx}, which builds without a GPU") from error


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except (ImportError, OSError) as error:
        what = f"needs {library}, which cannot be imported ({error})"
        raise MissingExtraError.at(
            WHERE, what, f"Run: pip install --force-reinstall {DISTRIBUTIONS[library]}"
        ) from error


@functools.cache
def _log(library: str) -> Any:
    """Return what TensorRT reports to: it keeps the first logger it is given, for as long as the process runs."""
    trt = _import(library)

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        """Remember errors, and print nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Keep what is at least an error, but for those of a machine without a GPU, which stop nothing."""
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR) and "cudaError" not in message:
                self.lines.append(message)

    return Log()


def _optimization_profile(builder: Any, network: Any, profile: Profile) -> Any:
    """Tell TensorRT the smallest, a typical and the largest of each input; of one that is a shape, its values."""
    made = builder.create_optimization_profile()
    for value in (network.get_input(index) for index in range(network.num_inputs)):
        arrays = profile[value.name]
        if value.is_shape_tensor:
            made.set_shape_input(value.name, *(array.reshape(-1).tolist() for array in arrays))
        else:
            made.set_shape(value.name, *(array.shape for array in arrays))
    return made


def _ask_for_capabilities(trt: Any, config: Any) -> tuple[str, ...]:
    """Ask for every GPU that can run float32; only TensorRT for RTX builds for others than the one at hand."""
    if not hasattr(trt, "ComputeCapability"):
        return ()
    members = trt.ComputeCapability.__members__
    wanted = {name: value for name, value in members.items() if name.startswith("SM") and name != _NOT_IN_FLOAT32}
    config.num_compute_capabilities = len(wanted)
    for index, value in enumerate(wanted.values()):
        config.set_compute_capability(value, index)
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in wanted)


def _last(lines: list[str]) -> str:
    return lines[-1].strip().rstrip(".") if lines else "it gives no reason"
