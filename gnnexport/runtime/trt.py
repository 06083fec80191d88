"""Engines of TensorRT: why they do not run here, and what stands in for them.

This version builds engines and does not run them. What can be proven of an engine without its device is proven of
the ONNX model beside it, from which it was built.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray

from gnnexport.bundle.manifest import Target
from gnnexport.errors import NotRunnableError
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.ort import OrtBackend

ONNX_FILE = "model.onnx"
"""The model that an engine was built from, beside it."""

PREPARE_FILE = "prepare.onnx"
"""What runs in front of it where every request brings its own graphs."""

DISTRIBUTIONS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
"""The Python modules that build and run engines, and the packages that bring them."""

DRIVER = Path("/proc/driver/nvidia/version")
"""Exists where the driver of an NVIDIA GPU is loaded."""


def open_engine(target: Target, where: str) -> NoReturn:
    """Refuse to run an engine, with the first of the reasons that the user can do something about.

    Args:
        target: of the manifest.
        where: names the bundle in messages.

    Raises:
        NotRunnableError: always: this version does not run engines.
    """
    module, made = _builder(target)
    capabilities = " or ".join(map(str, target.requirements.get("compute_capabilities", ()))) or "that it was built for"
    elsewhere = f"Run {target.model_file} with {module} {made} on a GPU of compute capability {capabilities}"
    raise NotRunnableError.at(where, why_not_run(target), f"{elsewhere}, or make the bundle with --target=ort")


def why_not_run(target: Target) -> str:
    """Say what keeps an engine from running on this machine."""
    if not DRIVER.exists():
        return "the engine needs an NVIDIA GPU, and this machine has none with a driver"
    module, made = _builder(target)
    installed = _installed(module)
    if installed is None:
        return f"the engine needs {module} {made}, which is not installed"
    if installed != made:
        return f"the engine needs exactly {module} {made}, which built it, and {installed} is installed"
    return "this version of gnnexport builds engines and does not run them"


def open_onnx(folder: Path, threads: int | None, *, prepared: bool) -> Backend:
    """Open the model that the engine in a folder was built from, in ONNX Runtime, with what runs in front of it.

    Args:
        folder: of the bundle.
        threads: of one op.
        prepared: whether something runs in front, as the manifest says.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        UsageError: ONNX Runtime cannot load a file.
    """
    model = OrtBackend(folder / ONNX_FILE, threads)
    return _Chain(OrtBackend(folder / PREPARE_FILE, threads), model) if prepared else model


class _Chain(Backend):
    """One model in front of another: what the first gives, the second takes."""

    name = OrtBackend.name

    def __init__(self, first: Backend, second: Backend) -> None:
        self._first, self._second = first, second
        between = {tensor.name for tensor in first.outputs}
        wanted = {tensor.name: tensor for tensor in (*second.inputs, *first.inputs) if tensor.name not in between}
        self.inputs = tuple(wanted.values())
        self.outputs = second.outputs

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run both on arrays that were checked already; return every output of the second by name."""
        given = {**feeds, **self._first.run({tensor.name: feeds[tensor.name] for tensor in self._first.inputs})}
        return self._second.run({tensor.name: given[tensor.name] for tensor in self._second.inputs})

    def close(self) -> None:
        """Release both."""
        self._first.close()
        self._second.close()


def _builder(target: Target) -> tuple[str, str]:
    """Return the module that built an engine, and its version."""
    found = [(name, target.versions[name]) for name in DISTRIBUTIONS if name in target.versions]
    return found[0] if found else ("TensorRT", "")


def _installed(module: str) -> str | None:
    """Return the version of a module without importing it."""
    try:
        return metadata.version(DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:
        return None
