"""What works on this machine: libraries, targets, processor."""

from __future__ import annotations

import importlib
import platform
import sys
from dataclasses import dataclass
from importlib import metadata

from gnnexport.bundle.processor import this_processor
from gnnexport.errors import MissingExtraError
from gnnexport.native.library import how_to_mend, path_name, why_missing
from gnnexport.native.openvino_extension import outlook
from gnnexport.runtime.openvino import import_openvino, without_telemetry

_LIBRARIES = {
    "numpy": ("numpy", "pip install gnnexport"),
    "scikit-learn": ("sklearn", "pip install gnnexport"),
    "onnxruntime": ("onnxruntime", "pip install 'gnnexport[ort]'"),
    "openvino": ("openvino", "pip install 'gnnexport[openvino]'"),
    "tensorrt-rtx": ("tensorrt_rtx", "pip install 'gnnexport[trt]'"),
    "tensorrt": ("tensorrt", ""),
    "torch": ("torch", "pip install 'gnnexport[compress]'"),
    "torch_geometric": ("torch_geometric", "pip install 'gnnexport[compress]'"),
    "onnx": ("onnx", "pip install 'gnnexport[compress]'"),
    "onnx-ir": ("onnx_ir", "pip install 'gnnexport[compress]'"),
    "onnxscript": ("onnxscript", "pip install 'gnnexport[compress]'"),
}

_UNASKED = "tensorrt"
"""Taken where it is installed; nobody is told to install it, as it comes with the drivers of a GPU."""

_MAKE = ("torch", "torch_geometric", "onnx", "onnx-ir", "onnxscript")
_JOBS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "compress and export": (_MAKE, ("onnxruntime", "openvino"), "an engine to prove the result with"),
    "target onnx": (_MAKE, ("onnxruntime",), "onnxruntime to prove the result with"),
    "target ort": (_MAKE, ("onnxruntime",), "onnxruntime"),
    "target openvino": (_MAKE, ("openvino",), "openvino"),
    "target trt": ((*_MAKE, "onnxruntime"), ("tensorrt-rtx", "tensorrt"), "what builds engines"),
    "validate and bench (onnx, ort)": ((), ("onnxruntime",), "onnxruntime"),
    "validate and bench (openvino)": ((), ("openvino",), "openvino"),
    "validate (trt)": ((), ("onnxruntime",), "onnxruntime, to run the model that the engine was built from"),
}
"""What each job needs: all of the first, one of the second, and what that one is for."""


@dataclass(frozen=True)
class DoctorEntry:
    """Something gnnexport can use, and how to get it when it is missing."""

    name: str
    ok: bool
    version: str
    mend: str = ""


_NEVER = DoctorEntry(
    "bench (trt)",
    False,
    "does not run here",
    "This version builds engines and does not run them; validate proves all but their speed",
)


def examine() -> list[DoctorEntry]:
    """Import each library and report it."""
    processor = this_processor()
    entries = [
        DoctorEntry("python", sys.version_info >= (3, 11), platform.python_version(), "Install Python 3.11 or newer"),
        DoctorEntry("processor", True, f"{processor.name} ({', '.join(processor.features) or 'no vector extensions'})"),
        _kernels(),
        *_extension(),
    ]
    libraries = {name: _library(name, module, mend) for name, (module, mend) in _LIBRARIES.items()}
    jobs = [
        _job(name, [libraries[item] for item in needed], [libraries[item] for item in engines], purpose)
        for name, (needed, engines, purpose) in _JOBS.items()
    ]
    listed = [entry for entry in libraries.values() if entry.ok or entry.name != _UNASKED]
    return [*entries, *listed, *jobs, _NEVER]


def _kernels() -> DoctorEntry:
    """Tell which instructions our own kernels use, or why they do not serve."""
    missing = why_missing()
    if missing is None:
        return DoctorEntry("native kernels", True, path_name())
    return DoctorEntry("native kernels", False, missing, f"Other lowerings serve. {how_to_mend()}")


def _extension() -> list[DoctorEntry]:
    """Tell whether OpenVINO can call the kernels; who lacks one of the two is told so by its own entry."""
    if why_missing() is not None:
        return []
    name = "native kernels (openvino)"
    try:
        engine = import_openvino("doctor")
    except MissingExtraError:
        return []
    try:
        return [DoctorEntry(name, True, outlook(engine))]
    except MissingExtraError as error:
        return [DoctorEntry(name, False, problem.what, problem.mend) for problem in error.problems]


def _job(name: str, needed: list[DoctorEntry], engines: list[DoctorEntry], purpose: str) -> DoctorEntry:
    """Tell whether everything a job needs, and one of its engines, is there."""
    mends = dict.fromkeys(entry.mend for entry in needed if not entry.ok)
    if not any(entry.ok for entry in engines):
        mends[f"It needs {purpose}: {' or '.join(entry.mend for entry in engines if entry.mend)}"] = None
    return DoctorEntry(name, not mends, "" if mends else "works", ". ".join(mends))


def _library(name: str, module: str, mend: str) -> DoctorEntry:
    try:
        with without_telemetry():
            importlib.import_module(module)
        return DoctorEntry(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return DoctorEntry(name, True, "unknown version")
    except ImportError as error:
        return DoctorEntry(name, False, "", f"{mend} ({error})" if not isinstance(error, ModuleNotFoundError) else mend)
