"""What happens to a bundle whose engine cannot run here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gnnexport import api
from gnnexport.bundle.manifest import Target
from gnnexport.bundle.reader import open_bundle
from gnnexport.bundle.report_files import write_reports
from gnnexport.bundle.report_schema import Budgets, Latency, Measurement, Report
from gnnexport.errors import NotRunnableError, ParityError
from gnnexport.report.markdown import to_markdown
from gnnexport.report.text import to_text
from gnnexport.runtime import trt
from gnnexport.runtime.runner import load, load_to_prove
from tests.unit.tiny_bundle import WEIGHT, X, write_tiny_bundle

ENGINE = Target(
    spec="trt",
    runtime="trt",
    model_file="model.onnx",
    threads=1,
    versions={"tensorrt_rtx": "1.7.1.116", "onnx": "1.0"},
    requirements={"compute_capabilities": ["8.6", "12.0"]},
)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no test depend on the machine it runs on."""
    monkeypatch.setattr(trt, "DRIVER", tmp_path / "absent")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with an engine, of which only the model beside it matters here."""
    return write_tiny_bundle(tmp_path / "m", target=ENGINE)


def test_load_refuses_with_the_way_that_works(bundle: Path) -> None:
    """Whoever calls `load` wants to run it: the error says why not, where it would run, and what to do instead."""
    with pytest.raises(
        NotRunnableError, match=r"needs an NVIDIA GPU.*capability 8\.6 or 12\.0.*--target=ort"
    ) as caught:
        load(bundle)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        (None, "needs tensorrt_rtx 1.7.1.116, which is not installed"),
        ("1.6.0", "needs exactly tensorrt_rtx 1.7.1.116, which built it, and 1.6.0 is installed"),
        ("1.7.1.116", "this version of gnnexport builds engines and does not run them"),
    ],
)
def test_reasons_on_a_machine_with_a_gpu(
    installed: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine runs only in the release that built it, and nowhere under this version of gnnexport."""
    monkeypatch.setattr(trt, "DRIVER", tmp_path)
    monkeypatch.setattr(trt, "_installed", lambda module: installed)
    assert words in trt.why_not_run(ENGINE)


def test_the_model_stands_in_for_its_engine(bundle: Path) -> None:
    """To prove a bundle its ONNX model is run instead, and the runner says that it is not the engine."""
    with load_to_prove(bundle) as runner:
        assert runner.name == "onnxruntime"
        assert "needs an NVIDIA GPU" in str(runner.engine_not_run)
        np.testing.assert_allclose(runner({"x": X})["logits"], X @ WEIGHT, atol=1e-6)


def test_an_engine_that_runs_needs_no_stand_in(tmp_path: Path) -> None:
    """Where the engine runs it is what is proven."""
    with load_to_prove(write_tiny_bundle(tmp_path / "o")) as runner:
        assert runner.engine_not_run is None


def test_validate_proves_all_but_speed(bundle: Path) -> None:
    """Parity and accuracy are measured, latency and memory are null, and the report says why in words."""
    outcome = api.validate(bundle)
    report = outcome.report
    assert outcome.exit_code == 0
    assert (report.verdict, report.result.runner) == ("pass", "onnxruntime")
    assert report.parity is not None
    assert report.result.metric is not None
    assert report.result.metric.value == 1.0
    assert report.result.latency_ms is report.result.nodes_per_second is report.result.peak_memory_bytes is None
    assert any(reason.startswith("latency not measured: the engine needs an NVIDIA GPU") for reason in report.reasons)
    for text in (to_text(report, width=400), to_markdown(report)):
        assert "accuracy and parity were measured on model.onnx in onnxruntime, not on the engine" in text
        assert "latency not measured: the engine needs an NVIDIA GPU" in text


def test_a_latency_in_the_report_does_not_outlive_validation(bundle: Path) -> None:
    """What `compress` timed on a machine with the device is not shown as if it held here."""
    timed = Latency(p50=1, p95=1, p99=1, runs=9)
    old = Report(baseline=Measurement(latency_ms=timed), result={"latency_ms": timed})
    write_reports(bundle, old, "")
    report = api.validate(bundle).report
    assert report.result.latency_ms is None
    assert report.baseline.latency_ms == timed
    assert report.baseline.measured_on is not None
    assert report.speedup.against_baseline is None
    assert "| latency p50 | 1 ms | not measured | not measured |" in to_markdown(report)


def test_validate_with_a_budget_of_speed_is_inconclusive(bundle: Path) -> None:
    """A budget that the user set is neither met nor missed by what was not measured."""
    write_reports(bundle, Report(budgets=Budgets(min_speedup="2", min_speedup_set=True)), "")
    outcome = api.validate(bundle)
    assert (outcome.exit_code, outcome.report.verdict) == (7, "inconclusive")
    assert any("NVIDIA GPU" in reason and "cannot be decided" in reason for reason in outcome.report.reasons)


def test_wrong_numbers_are_still_found(tmp_path: Path) -> None:
    """What stands in is held to the golden cases."""
    with pytest.raises(ParityError, match="golden cases differ"):
        api.validate(write_tiny_bundle(tmp_path / "m", weight=2 * WEIGHT, target=ENGINE))


def test_bench_refuses(bundle: Path) -> None:
    """There is nothing to time."""
    with pytest.raises(NotRunnableError, match="NVIDIA GPU"):
        api.bench(bundle)
    assert open_bundle(bundle).report() is None
