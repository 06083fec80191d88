"""A serving machine: the wheel with one engine and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gnnexport import api
from tests.road import write_road
from tests.wheel import build_wheel


@pytest.mark.slow
def test_a_bundle_validates_where_torch_is_not_installed(tmp_path: Path) -> None:
    """A fresh environment with `gnnexport[ort]` proves a bundle made elsewhere, without torch; pip needs a network."""
    bundle = api.compress(write_road(tmp_path / "road"), time_budget="10s").bundle
    binaries = tmp_path / "environment" / ("Scripts" if os.name == "nt" else "bin")
    (tmp_path / "wheel").mkdir()
    wheel = build_wheel(tmp_path / "wheel")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)

    run(sys.executable, "-m", "venv", str(tmp_path / "environment")).check_returncode()
    python = str(binaries / "python")
    installed = run(python, "-m", "pip", "install", "--quiet", f"{wheel}[ort]")
    assert installed.returncode == 0, installed.stderr
    absent = (
        "from importlib.util import find_spec; print([n for n in ('torch', 'torch_geometric', 'onnx') if find_spec(n)])"
    )
    assert run(python, "-c", absent).stdout.strip() == "[]"
    validated = run(str(binaries / "gnnexport"), "validate", str(bundle))
    assert validated.returncode == 0, validated.stderr
