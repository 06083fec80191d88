"""The wheel of this repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
LINKED = ["passes", "targets"]

NO_KERNELS = "wheel.cmake=false"
QUICK_KERNELS = "cmake.build-type=Debug"
"""Compiles without optimising, in seconds."""


def build_wheel(folder: Path, *settings: str, **variables: str) -> Path:
    """Build the wheel with these settings of scikit-build-core and variables of the environment; needs no network."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    chosen = [part for setting in settings for part in ("--config-settings", setting)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | variables
    subprocess.run(
        [*command, *chosen, "--wheel-dir", str(folder), str(REPOSITORY)],
        env=environment,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built
