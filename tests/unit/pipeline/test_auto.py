from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gnnexport import api
from gnnexport.bundle.report_schema import Report
from gnnexport.errors import UnsupportedError
from gnnexport.measure.intervals import Interval
from tests.road import write_road


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small trained model with its data and sidecar beside it."""
    return write_road(tmp_path_factory.mktemp("auto"))


def compress(model: Path, **options: str) -> Report:
    """Let the pipeline choose, and return its report; no lowering is timed, for sizes hang on which is chosen."""
    shutil.rmtree(model.with_suffix(".bundle"), ignore_errors=True)
    given = {"target": "ort{aggregate=ell}", "time_budget": "30s", **options}
    return api.compress(model, passes="auto", **given).report  # type: ignore[arg-type]


def tried(report: Report) -> list[tuple[str, bool, str]]:
    """Return spec, verdict and reason of each setting of prune-channels."""
    return [(step.name, step.kept, step.notes[-1]) for step in report.steps if step.name.startswith("prune-channels")]


def test_auto_keeps_what_fits_the_budget(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wide budget the strongest setting is tried, and kept because the file got smaller, and no slower."""
    # A busy machine may measure the smaller model as the slower one.
    monkeypatch.setattr("gnnexport.pipeline.compression.speedup", lambda *_: Interval(1.0, 0.9, 1.1, "a trial"))
    name, kept, reason = tried(compress(model, max_drop="100pp"))[0]
    options = "keep=0.25,select=lasso,heads=inside,refit=true,multiple=8,retrain=true,distil=0.0,rows=100000"
    assert name == f"prune-channels{{{options}}}"
    assert kept
    assert reason.startswith("kept: not measurably faster, but smaller: ")


@pytest.fixture(scope="module")
def costly(model: Path) -> Report:
    """The report where every candidate costs more accuracy than the budget allows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gnnexport.training.trainer.Trainer.drop", lambda *_: 2.0)
        return compress(model, max_drop="100pp")


def test_auto_drops_what_costs_accuracy(costly: Report) -> None:
    """A candidate whose validation metric falls by more than the budget is dropped, and the next one tried."""
    found = tried(costly)
    assert [kept for _, kept, _ in found] == [False, False, False]
    assert all(reason.startswith("dropped: validation accuracy became worse by 200.00 pp") for _, _, reason in found)


def test_auto_tries_learned_widths_before_one_for_all(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of a2q, by the same gate as any other pass, leaves nothing to the plain way; zeros come before."""
    monkeypatch.setattr("gnnexport.pipeline.compression.speedup", lambda *_: "not asked")
    monkeypatch.setattr("gnnexport.pipeline.compression.worth", lambda *_: (True, "kept: for the test"))
    report = compress(model, max_drop="100pp", time_budget="10m")
    steps = {step.name.partition("{")[0]: step for step in report.steps}
    assert steps["a2q"].kept
    assert "bits=2.0" in steps["a2q"].name
    assert any(note.startswith("chosen by validation") for note in steps["a2q"].notes)
    assert not steps["quantize"].kept
    assert "quantised already" in steps["quantize"].notes[-1]
    assert report.result.bits is not None
    assert report.result.bits.average_paper == pytest.approx(2, abs=0.1)
    tried = list(steps)
    zeros = ("sparsify-edges", "sparsify-weights")
    assert tried.index("prune-channels") < tried.index(zeros[0]) < tried.index(zeros[1]) < tried.index("a2q")
    assert all(steps[name].kept for name in zeros)
    assert all(any(note.startswith("can be at most") for note in steps[name].notes) for name in zeros)
    assert report.result.sparsity is not None
    assert report.result.sparsity.edges == pytest.approx(0.75, abs=0.01)
    assert report.result.sparsity.weights_stored == pytest.approx(61 / 72)  # of two matrices, in blocks
    assert {item.name for item in report.result.sparsity.weights} == {"convs_0_lin_weight", "convs_1_lin_weight"}


def test_auto_result_is_the_export_when_nothing_was_kept(costly: Report) -> None:
    """When nothing pays, the uncompressed export is what ships, and the report says what was tried."""
    assert costly.result.parameters == costly.exported.parameters
    assert costly.speedup.against_exported is not None
    assert costly.speedup.against_exported.value == 1
    assert len(tried(costly)) == 3


def test_auto_does_not_prune_blindly(tmp_path: Path) -> None:
    """Without labels nothing tells what a pass costs, so none is kept."""
    model = write_road(tmp_path, lambda arrays: {"x": arrays["x"], "edge_index": arrays["edge_index"]})
    text = (tmp_path / "gnnexport.toml").read_text()
    (tmp_path / "gnnexport.toml").write_text(text.replace('max_drop = "100pp"', ""))
    outcome = api.compress(model, passes="auto", time_budget="30s")
    assert outcome.exit_code == 0
    assert outcome.report.result.metric is None
    assert [kept for _, kept, _ in tried(outcome.report)] == [False, False, False]


def test_auto_exports_what_it_cannot_retrain(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that cannot be retrained is exported uncompressed, with the reason in the report."""

    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedError.at("retraining", "the layer is frozen", "Skip retraining")

    monkeypatch.setattr("gnnexport.training.trainer.Trainer.fit", refuse)
    found = tried(compress(model, max_drop="100pp"))
    cutting = found[:2]  # the third keeps every channel, so that what timing finds decides
    assert not any(kept for _, kept, _ in cutting)
    assert all("the layer is frozen" in reason for _, _, reason in cutting)


def test_auto_tells_of_each_pass_that_time_did_not_allow(model: Path) -> None:
    """Nothing is tried once the time budget is spent, and every pass is listed with that reason."""
    report = compress(model, max_drop="100pp", time_budget="1ms")
    untried = {
        step.name.partition("{")[0] for step in report.steps if step.notes == ("not tried: the time budget is spent",)
    }
    assert {"prune-channels", "sparsify-weights", "a2q", "quantize"} <= untried
