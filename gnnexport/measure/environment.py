"""What machine and which libraries a measurement was taken with."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

from gnnexport.bundle.processor import this_processor, usable_cores

_LIBRARIES = (
    "gnnexport",
    "numpy",
    "scikit-learn",
    "onnxruntime",
    "openvino",
    "tensorrt-rtx",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "torch",
    "torch-geometric",
)


BUSY = 1.4
"""Load per core above which timings are not to be trusted."""


def describe_environment() -> dict[str, Any]:
    """Describe this machine as plain values for the report; versions of libraries that are not installed stay out."""
    processor = this_processor()
    return {
        "processor": processor.name,
        "features": list(processor.features),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "versions": versions(),
    }


def memory_bytes() -> int | None:
    """Return the main memory of this machine; `None` where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def versions() -> dict[str, str]:
    """Return the versions of the libraries that matter, without importing them."""
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def busy_note(threads: int) -> list[str]:
    """Warn when other programs kept the processors busy while something was timed; empty when none did.

    PyTorch's threads wait for each other by spinning: on a busy machine a run of a millisecond can take a hundred,
    and a speedup over it means nothing.

    Args:
        threads: that this process itself kept busy.
    """
    if not hasattr(os, "getloadavg"):
        return []
    load, cores = os.getloadavg()[0], usable_cores()
    if load <= max(threads, cores) * BUSY:
        return []
    return [f"the machine was busy (load {load:.1f} on {cores} cores): repeat the timing when it is idle"]
