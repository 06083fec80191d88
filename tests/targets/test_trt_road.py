"""The whole way from a saved model to an engine of TensorRT, on a machine that need not have a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gnnexport
from benchmarks.real_data import find, reason, require
from benchmarks.training import build_model
from gnnexport import api
from gnnexport.bundle.digest import bundle_digest
from gnnexport.bundle.reader import open_bundle
from gnnexport.cli import app
from gnnexport.errors import NotRunnableError
from gnnexport.frontends.data import load_data
from gnnexport.runtime import trt
from gnnexport.runtime.runner import load_to_prove
from tests.road import small_graph, write_road

pytest.importorskip("tensorrt_rtx")
QUICK = "2s"
TARGET = "trt{library=tensorrt_rtx}"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no test depend on the machine it runs on."""
    monkeypatch.setattr(trt, "DRIVER", tmp_path / "absent")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained model with its data and sidecar beside it."""
    return write_road(tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="module")
def both(model: Path) -> api.Outcome:
    """One compression for two targets."""
    return api.compress(model, target=f"ort,{TARGET}", time_budget=QUICK, output=model.with_name("both"))


def test_one_target_is_timed_and_the_other_proven(both: api.Outcome) -> None:
    """The engine has parity, accuracy and size, no latency, and a reason; ONNX Runtime is measured as ever."""
    ort, made = both.reports["ort"], both.reports["trt"]
    assert both.exit_code == 0
    assert (made.verdict, made.result.runner) == ("pass", "onnxruntime")
    assert made.parity is not None
    assert made.parity.max_rel_error < 1e-5
    assert made.result.metric is not None
    assert made.drop is not None
    assert made.result.size_bytes is not None
    for form in (made.result, made.exported):
        assert form.latency_ms is form.nodes_per_second is form.peak_memory_bytes is None
    assert made.speedup.against_baseline is made.speedup.against_exported is None
    assert made.baseline.latency_ms is not None
    assert any(reason.startswith("latency not measured: the engine needs") for reason in made.reasons)
    assert ort.result.latency_ms is not None
    assert ort.engine_not_run is None


def test_both_bundles_answer_alike(both: api.Outcome) -> None:
    """The model that stands in for the engine answers as ONNX Runtime's own bundle does."""
    x = small_graph()["x"]
    answers = []
    for path in both.bundles.values():
        with load_to_prove(path) as run:
            answers.append(run({"x": x})["logits"])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_the_manifest_says_what_the_engine_needs(both: api.Outcome) -> None:
    """Library, version, device and compute capabilities."""
    record: dict[str, Any] = json.loads((both.bundles["trt"] / "manifest.json").read_text())["target"]
    assert (record["runtime"], record["model_file"]) == ("trt", "model.engine")
    assert record["requirements"]["device"] == "NVIDIA GPU"
    assert record["requirements"]["tensorrt_rtx"] == f"=={record['versions']['tensorrt_rtx']}"
    assert "8.6" in record["requirements"]["compute_capabilities"]


def test_an_engine_is_verified_but_not_part_of_the_digest(both: api.Outcome) -> None:
    """Built again it may differ, so the digest rests on what it was built from; its size counts."""
    bundle = open_bundle(both.bundles["trt"])
    files = {file.path: file for file in bundle.manifest.files}
    assert files["model.engine"].kind == "engine"
    assert bundle.size_bytes == both.reports["trt"].result.size_bytes
    assert bundle.size_bytes == files["model.engine"].size_bytes + files["model.onnx"].size_bytes
    other = [file.model_copy(update={"sha256": "0"}) if file.kind == "engine" else file for file in files.values()]
    assert bundle_digest(other) == bundle.manifest.digest


def test_the_bundle_validates_without_tensorrt(both: api.Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever checks a bundle needs ONNX Runtime only; neither torch nor TensorRT."""
    for module in ("onnx", "onnx_ir", "tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, module, None)
    outcome = api.validate(both.bundles["trt"])
    assert outcome.exit_code == 0
    assert outcome.report.result.metric == both.reports["trt"].result.metric
    assert outcome.report.result.latency_ms is None


def test_what_would_run_the_engine_refuses(both: api.Outcome) -> None:
    """`load` and `bench` are about the engine: 6, with a way out."""
    with pytest.raises(NotRunnableError, match="--target=ort"):
        gnnexport.load(both.bundles["trt"])
    assert app.run(["bench", str(both.bundles["trt"])]) == 6


def test_a_budget_of_speed_is_inconclusive(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for a speedup, the run ends with 7 and the reason, and keeps the bundle with its verdict in it."""
    arguments = [str(model), f"--target={TARGET}", "--passes=none", "--time-budget=1s", "-o", str(tmp_path / "b")]
    assert app.run(["compress", *arguments, "--min-speedup=2"]) == 7
    printed = " ".join(capsys.readouterr().out.split())
    assert "not measured: the engine needs an NVIDIA GPU, and this machine has none with a driver" in printed
    assert "the budget of 2x cannot be decided" in printed
    assert json.loads((tmp_path / "b" / "report.json").read_text())["verdict"] == "inconclusive"
    assert "latency p50" in (tmp_path / "b" / "report.md").read_text()


@pytest.mark.skipif(find("cora") is None, reason=reason("cora"))
@pytest.mark.parametrize(("more", "code"), [([], 0), (["--min-speedup=2"], 7)])
def test_cora(more: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a real graph an engine is built within seconds; only a budget of speed leaves the verdict open."""
    data, _ = load_data(require("cora"))
    model = build_model("GCN", data, layers=2, hidden=16, seed=0)
    torch.save(model, tmp_path / "model.pt")
    arguments = [str(tmp_path / "model.pt"), f"--target={TARGET}", f"--data={require('cora')}", "--time-budget=1s"]
    assert app.run(["compress", *arguments, "--passes=none", "--json", *more]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == ("inconclusive" if code else "pass")
    assert report["result"]["latency_ms"] is None
    assert report["parity"]["max_rel_error"] < 1e-5
    assert any("needs an NVIDIA GPU" in line for line in report["reasons"])
    assert (tmp_path / "model.bundle" / "model.engine").stat().st_size > 0


def test_auto_judges_by_size(model: Path, tmp_path: Path) -> None:
    """Where nothing can be timed a pass is kept if it makes the files smaller, and its note says so."""
    report = api.compress(
        model, target=TARGET, passes="auto", max_drop="100pp", time_budget="30s", output=tmp_path / "b"
    ).report
    tried = [step for step in report.steps if step.name.startswith("prune-channels")]
    assert tried[-1].kept
    assert "kept: smaller" in tried[-1].notes[-1]
    assert "judged by size only, latency not measured: the engine needs an NVIDIA GPU" in tried[-1].notes[-1]


def test_decisions_replay_to_the_same_digest(both: api.Outcome, model: Path, tmp_path: Path) -> None:
    """An engine built again from the same decisions comes from the same model, so that the bundle keeps its digest."""
    first = both.bundles["trt"]
    again = api.compress(
        model, target=TARGET, time_budget=QUICK, output=tmp_path / "b", decisions=first / "decisions.json"
    ).bundle
    digests = {json.loads((path / "manifest.json").read_text())["digest"] for path in (first, again)}
    assert len(digests) == 1
