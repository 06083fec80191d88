"""Peak memory of running a bundle, measured in a process that does nothing else.

Run as `python -m gnnexport.runtime.peak BUNDLE`: loads the bundle, runs it twice on its first golden case, or on noise
when it has none, and prints bytes.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.features import noise
from gnnexport.bundle.manifest import Manifest
from gnnexport.bundle.reader import open_bundle
from gnnexport.bundle.stages import NODE_IDS
from gnnexport.runtime.runner import load

_STATUS = Path("/proc/self/status")

_TARGETS = 512
"""Nodes that a request of mode `batched` asks about where the bundle has none to try."""


def peak_memory_bytes(bundle: Path, *, timeout_s: float = 600.0) -> int | None:
    """Return the largest resident memory of a fresh process that runs a bundle; `None` where it cannot be told.

    The interpreter and the engine are counted: it is what a server needs.
    """
    command = [sys.executable, "-P", "-m", "gnnexport.runtime.peak", str(bundle)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        return int(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def main(bundle: str) -> int:
    """Run a bundle and print the peak of this process; 1 where the system does not tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = open_bundle(bundle)
        runner = load(opened)
    cases = opened.golden(1)  # a server does not hold the others either
    with runner:
        feeds = cases[0].feeds() if cases else made_up(opened.manifest)
        for _ in range(2):
            runner(feeds)
    peak = read_peak(_STATUS)
    if peak is None:
        return 1
    print(peak)
    return 0


def made_up(manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return a request: noise, or in mode `batched` nodes from all over the graph."""
    if manifest.mode == "batched" and manifest.graph is not None:
        return {NODE_IDS: np.linspace(0, manifest.graph.nodes - 1, _TARGETS).astype(np.int64)}
    return {tensor.name: noise(tensor.shape) for tensor in manifest.inputs}


def read_peak(status: Path) -> int | None:
    """Read the peak of resident memory from a Linux `/proc/PID/status`.

    Not from `getrusage`: a child starts there with the peak of the process it was forked from.
    """
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return found[0] if found else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
