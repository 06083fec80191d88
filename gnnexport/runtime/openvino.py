"""OpenVINO on the processor."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.manifest import Tensor
from gnnexport.bundle.processor import usable_cores
from gnnexport.errors import MissingExtraError, UnsupportedError, UsageError
from gnnexport.native.openvino_extension import extension
from gnnexport.runtime.backend import Backend

DEVICE = "CPU"
_TELEMETRY = "openvino_telemetry"
_DETAILS, _SUMMARY = "Failed operations detailed log:", "Summary:"


class OpenVinoBackend(Backend):
    """A model compiled by OpenVINO for one request at a time, in float32."""

    name = "openvino"

    def __init__(self, model_path: Path, threads: int | None = None, *, native: bool = False) -> None:
        """Load a model.

        Args:
            model_path: an OpenVINO IR, `.xml` with its `.bin` beside it.
            threads: threads of one request; `None` for all cores this process may use.
            native: the model calls our own kernels.

        Raises:
            MissingExtraError: OpenVINO is not installed, or the kernels are needed and cannot serve.
            UsageError: OpenVINO cannot load the file.
        """
        engine = import_openvino(model_path.name)
        core = open_core(engine, native=native)
        try:
            model = core.read_model(model_path)
            compiled = core.compile_model(model, DEVICE, settings(threads))
        except RuntimeError as error:
            what = f"openvino {engine.__version__} cannot load it ({reason(error)})"
            mend = "Run: pip install --upgrade openvino, or make the bundle again with this version"
            raise UsageError.at(str(model_path), what, mend) from error
        self._path = model_path
        self._make: Any = engine.Tensor
        self._request: Any = compiled.create_infer_request()
        # Not from the compiled model: where it dropped an operator, one port carries several names there.
        self.inputs = tuple(_tensor(port) for port in model.inputs)
        self.outputs = tuple(_tensor(port) for port in model.outputs)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model on arrays that were checked already; return every output by name.

        Raises:
            UnsupportedError: OpenVINO gave up, as it does when memory runs out.
        """
        given = [feeds[tensor.name] for tensor in self.inputs]
        sizes = [size for tensor in self.outputs for size in tensor.shape]
        try:
            if all(isinstance(size, int) and size > 0 for size in sizes):
                return self._run_into(given)
            found = infer(self._request, given)
        except (RuntimeError, MemoryError) as error:
            what = f"openvino failed while running it ({reason(error)})"
            raise UnsupportedError.at(str(self._path), what, "Free some memory, or run on a larger machine") from error
        return {tensor.name: found[index] for index, tensor in enumerate(self.outputs)}

    def _run_into(self, given: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Let the engine write results of known sizes where they are handed out: else each would be there twice."""
        made = {tensor.name: np.empty([int(size) for size in tensor.shape], tensor.dtype) for tensor in self.outputs}
        for place, array in enumerate(made.values()):
            self._request.set_output_tensor(place, self._make(array, shared_memory=True))
        run(self._request, given)
        return made

    def close(self) -> None:
        """Release the request and the model it runs."""
        self._request = None


def import_openvino(where: str) -> Any:
    """Return the module `openvino`.

    Args:
        where: names the caller in the message.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    try:
        with without_telemetry():
            return importlib.import_module("openvino")
    except ImportError as error:
        what = f"needs openvino, which cannot be imported ({error})"
        raise MissingExtraError.at(where, what, "Run: pip install 'gnnexport[openvino]'") from error


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Import `openvino` in here, and it calls nobody.

    Otherwise its import alone writes to the home folder and reports to its makers over the network, unless the user
    has said no. Running a model is no reason for that; who wants it imports `openvino` first.
    """
    modules: dict[str, Any] = sys.modules
    hidden = _TELEMETRY not in modules
    if hidden:
        modules[_TELEMETRY] = None
    try:
        yield
    finally:
        if hidden:
            del modules[_TELEMETRY]


def settings(threads: int | None) -> dict[str, Any]:
    """Return how models are compiled.

    The precision is said because OpenVINO takes bfloat16 by itself where the processor has it, which is off by
    several thousandths of the largest output.
    """
    return {
        "INFERENCE_NUM_THREADS": threads or usable_cores(),
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }


def open_core(engine: Any, *, native: bool) -> Any:
    """Return a core of OpenVINO that knows our own kernels, if they are needed: building them takes seconds, once.

    Raises:
        MissingExtraError: the kernels are needed and cannot serve.
    """
    core = engine.Core()
    if not native:
        return core
    path = extension(engine)
    try:
        core.add_extension(path)
    except RuntimeError as error:
        what = f"openvino {engine.__version__} cannot load their extension {path} ({reason(error)})"
        raise MissingExtraError.at("native kernels", what, f"Remove {path.parent}, and it is built again") from error
    return core


def infer(request: Any, given: list[NDArray[Any]]) -> Any:
    """Run a request once and return its results by place.

    Raises:
        RuntimeError: an operator failed.
    """
    run(request, given)
    return request.results


def run(request: Any, given: list[NDArray[Any]]) -> None:
    """Run a request once.

    Not by its own `infer`: on a single thread that loses the errors of the operators, and gives what was in memory.

    Raises:
        RuntimeError: an operator failed.
    """
    request.start_async(given, share_inputs=True)
    request.wait()


def _tensor(port: Any) -> Tensor:
    shape = tuple(str(size) if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return Tensor(name=port.any_name, dtype=port.element_type.to_dtype().name, shape=shape)


def reason(error: BaseException) -> str:
    """Return the line of OpenVINO's message that says what is wrong; others name its own source files, or sum up."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if _DETAILS in str(error) and _SUMMARY in lines:
        lines = lines[: lines.index(_SUMMARY)]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '", "To facilitate"))]
    return (telling or lines or [type(error).__name__])[-1].rstrip(".")
