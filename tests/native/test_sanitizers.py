"""Every kernel on every path, under the compiler's sanitizers: no read or write beside a buffer, no race."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
SETTINGS = {"ASAN_OPTIONS": "detect_stack_use_after_return=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


def built(sanitizers: str, folder: Path) -> Path:
    """Build the driver of `kernels/tests` and what it calls."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    options = ["-DCMAKE_BUILD_TYPE=Debug", f"-DGNNEXPORT_SANITIZE={sanitizers}"]
    configured = subprocess.run(["cmake", "-S", KERNELS, "-B", folder, *options], capture_output=True, text=True)
    if configured.returncode:
        pytest.skip(f"no compiler serves: {configured.stderr[-500:]}")
    subprocess.run(["cmake", "--build", folder, "--target", "sanitize"], check=True, capture_output=True)
    return folder / "sanitize"


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(sanitizers: str, tmp_path: Path) -> None:
    """Awkward graphs, refused arguments and many callers, in buffers of the exact size, leave the sanitizers silent."""
    program = built(sanitizers, tmp_path)
    run = subprocess.run([program], capture_output=True, text=True, env={**os.environ, **SETTINGS})
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
    assert run.stderr == ""
