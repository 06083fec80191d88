"""ONNX Runtime on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gnnexport.bundle.manifest import Tensor
from gnnexport.bundle.processor import usable_cores
from gnnexport.errors import MissingExtraError, UnsupportedError, UsageError
from gnnexport.native.library import library_path, why_missing
from gnnexport.runtime.backend import Backend

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
_ERRORS_ONLY = 3


class OrtBackend(Backend):
    """A session of ONNX Runtime whose threads sleep between runs, so that it disturbs no neighbour."""

    concurrent = True
    name = "onnxruntime"

    def __init__(self, model_path: Path, threads: int | None = None) -> None:
        """Load a model.

        Args:
            model_path: an ONNX file; external data lies beside it.
            threads: threads of one op; `None` for all cores this process may use.

        Raises:
            MissingExtraError: ONNX Runtime is not installed.
            UsageError: ONNX Runtime cannot load the file.
        """
        try:
            import onnxruntime
        except ImportError as error:
            what = f"needs onnxruntime, which cannot be imported ({error})"
            raise MissingExtraError.at(model_path.name, what, "Run: pip install 'gnnexport[ort]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # A plan of the memory takes one large block besides what the first run took: twice the peak for no time.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            offer_kernels(options)
            session = onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            what = f"onnxruntime {onnxruntime.__version__} cannot load it ({_first_line(error)})"
            mend = "Run: pip install --upgrade onnxruntime, or make the bundle again with this version"
            raise UsageError.at(str(model_path), what, mend) from error
        self._path = model_path
        self._session: Any = session
        self.inputs = tuple(_tensor(node) for node in session.get_inputs())
        self.outputs = tuple(_tensor(node) for node in session.get_outputs())

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model on arrays that were checked already; return every output by name.

        Raises:
            UnsupportedError: ONNX Runtime gave up, as it does when memory runs out.
        """
        names = [output.name for output in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as error:
            what = f"onnxruntime failed while running it ({_first_line(error)})"
            raise UnsupportedError.at(str(self._path), what, _mend(error)) from error

    def close(self) -> None:
        """Release the session."""
        self._session = None


def offer_kernels(options: Any) -> None:
    """Let a session find our own kernels, where this installation has them."""
    path = library_path()
    if path is not None and why_missing() is None:
        options.register_custom_ops_library(str(path))


def _tensor(node: Any) -> Tensor:
    shape = tuple(size if isinstance(size, int) else str(size) for size in node.shape)
    return Tensor(name=node.name, dtype=_DTYPES.get(node.type, node.type), shape=shape)


def _mend(error: Exception) -> str:
    if any(word in str(error).lower() for word in ("memory", "alloc")):
        return "Free some memory, or run on a larger machine"
    return "Run 'gnnexport validate' on the bundle: where that fails too, make it again; else look at the request"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
