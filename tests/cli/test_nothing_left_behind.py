"""Hostile files and a full disk, by way of the command line."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gnnexport.cli import app
from tests.road import write_road
from tests.unit.frontends.hostile import by_eval, by_system, gcn_with_code_in_a_type

FILE_LIMIT_BYTES = 4000


@pytest.mark.parametrize("hostile", [by_system, by_eval, gcn_with_code_in_a_type])
@pytest.mark.parametrize("victim", ["model.pt", "data.pt"])
def test_a_hostile_file_runs_nothing(
    hostile: Callable[[Path], Any], victim: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits 2 before anything of the file has run, whether it comes as model or as data."""
    marker = tmp_path / "marker"
    road = tmp_path / "road"
    model = write_road(road)
    torch.save(hostile(marker), road / victim)
    marker.unlink(missing_ok=True)
    before = sorted(road.iterdir())
    data = ["--data", str(road / "data.pt")] if victim == "data.pt" else []
    assert app.run(["compress", str(model), *data]) == 2
    streams = capsys.readouterr()
    assert victim in streams.err
    assert "Traceback" not in streams.err
    assert not marker.exists()
    assert sorted(road.iterdir()) == before


@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_what_was_there(earlier: bool, tmp_path: Path) -> None:
    """When writing fails in the middle the command exits 2, and an earlier bundle is still whole."""
    model = write_road(tmp_path)
    if earlier:
        assert app.run(["export", str(model), "--time-budget", "4s"]) == 0
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    done = subprocess.run(
        [sys.executable, "-m", "gnnexport", "export", str(model), "--force", "--time-budget", "4s"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, FILE_LIMIT_BYTES)),
    )
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    after = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    assert after.keys() == before.keys()
