"""The benchmarks start the way they are said to be started."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
WHERE = {"export_vs_pytorch": "Makefile", "channel_pruning": "benchmarks/channel_pruning.py"}


@pytest.mark.parametrize("name", WHERE)
def test_a_benchmark_starts_as_written(name: str) -> None:
    """The command in the Makefile, or in the file's first lines, finds what it imports."""
    found = re.search(rf"python (.*{name}\S*)", (REPOSITORY / WHERE[name]).read_text())
    assert found is not None
    command = [sys.executable, *found[1].split(), "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
