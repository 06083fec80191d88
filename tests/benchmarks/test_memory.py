from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import memory
from benchmarks.memory import Need
from benchmarks.real_data import ROOT
from gnnexport.native.library import why_missing


@pytest.mark.skipif(why_missing() is not None, reason=f"the kernels: {why_missing()}")
def test_every_runtime_is_measured(tmp_path):
    """Each runtime has a row beside what is needed, agrees with PyTorch, and takes what it is fed at the least."""
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.memory", "--quick", "--threads=1", "--skip=ort-portable"]
    done = subprocess.run([*command, f"--output={path}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {"gnnexport (ort)", "gnnexport (openvino)", "PyG CSR", "torch.onnx.export + ONNX Runtime"}
    for name, row in rows.items():
        assert f"| {name} |" in done.stdout
        assert row["max_rel_error"] < 1e-4
        assert row["above_idle_bytes"] >= max(row["loaded_bytes"], found["need"]["features_bytes"])
    assert "gnnexport (standard operators in ONNX Runtime): left out, by --skip" in done.stdout
    # The process of a bundle holds what a server holds, which is no PyTorch.
    assert rows["gnnexport (ort)"]["idle_bytes"] < rows["PyG CSR"]["idle_bytes"] / 2


@pytest.mark.parametrize("way", ["ort", "openvino", "ort-portable", "usual"])
def test_engines_are_measured_without_torch(way):
    """What an engine's process imports before it is called idle has the engine in it, and not PyTorch."""
    code = f"import sys; from benchmarks.resident import WAYS; WAYS['{way}']('{way}'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.split())
    assert ("openvino" if way == "openvino" else "onnxruntime") in modules
    assert not {"torch", "torch_geometric", "onnx"} & modules


def test_need_counts_everything_once():
    """Needed are 128 columns of features, 32-bit edges by destination, and two activations of 256 columns."""
    need = Need.of(1000, 5000)
    assert (need.features_bytes, need.graph_bytes, need.activations_bytes) == (512_000, 24_004, 2_048_000)
    assert need.total_bytes == 2_584_004


def test_what_is_killed_or_has_no_room_is_left_out(tmp_path, monkeypatch):
    """A process that the system ended, or one that is not started for want of memory, leaves its reason."""

    def killed(command, **options):
        return subprocess.CompletedProcess(command, -9, "", "")

    monkeypatch.setattr(subprocess, "run", killed)
    rows, left_out = memory.compare(tmp_path, ["ort", "usual"], 1, Need.of(10, 20), {"usual": 1 << 60})
    assert rows == []
    assert left_out[memory.OURS] == "its process was ended by signal 9"
    assert left_out[memory.USUAL].startswith("it would take 1152921504.6 GB, and ")


def test_a_contender_that_fails_ends_the_benchmark(tmp_path):
    """A fault is not taken for want of memory; the contender's own words are shown."""
    with pytest.raises(SystemExit, match=r"(?s)ort failed:.*no such bundle"):
        memory.measure("ort", tmp_path, 1)
