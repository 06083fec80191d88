import numpy as np
import pytest

from gnnexport import validate
from gnnexport.bundle.manifest import AppliedPass
from gnnexport.bundle.processor import this_processor
from gnnexport.bundle.report_files import write_reports
from gnnexport.bundle.report_schema import (
    Budgets,
    DataInfo,
    Drop,
    Latency,
    Measurement,
    MetricValue,
    ParityResult,
    Ratio,
    Report,
    Result,
    Speedup,
)
from gnnexport.errors import DataError, ParityError, UsageError
from gnnexport.measure.environment import describe_environment
from gnnexport.measure.timing import Timing
from gnnexport.report.markdown import to_markdown
from gnnexport.report.verdict import judge
from gnnexport.validate.bundle import bench_bundle, validate_bundle
from tests.unit.tiny_bundle import EDGE_INDEX, LABELS, NODES, WEIGHT, X, write_tiny_bundle

SHORT_S = 0.01


def report_of(**environment: object) -> Report:
    """A report as `compress` leaves it here, but for what is given of the environment."""
    speed = Latency(p50=10, p95=10, p99=10, runs=8)
    return Report(
        environment={**describe_environment(), "threads": 1, **environment},
        budgets=Budgets(max_drop="0.5pp", max_drop_set=True, min_speedup="2x", min_speedup_set=True),
        baseline=Measurement(latency_ms=speed, runner="pytorch-csr"),
        exported=Measurement(latency_ms=speed, runner="onnxruntime"),
        result=Result(
            metric=MetricValue(name="accuracy", split="test", value=0.5, n=3), peak_memory_bytes=1, parameters=12
        ),
        drop=Drop(value=0.5),
        parity=ParityResult(max_abs_error=1, max_rel_error=1, tolerance=1e-4),
        speedup=Speedup(against_baseline=Ratio(value=3, ci95=(2, 4)), against_exported=Ratio(value=1)),
        notes=("from compress",),
    )


def slow_down(monkeypatch, p50_ms):
    """Let every timing find this."""
    found = Timing(p50_ms, p50_ms, p50_ms, 24, (p50_ms,) * 3)
    monkeypatch.setattr(validate.bundle, "compare", lambda contenders, **_: dict.fromkeys(contenders, found))


def write_data(path, **changes):
    """Write data as it lies beside a model."""
    arrays = {"x": X, "y": LABELS, "edge_index": EDGE_INDEX.astype(np.int32), **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_everything_is_measured(tmp_path):
    """Parity, accuracy, latency, throughput and memory are measured and stand in the report."""
    outcome = validate_bundle(write_tiny_bundle(tmp_path / "m"), time_budget_s=SHORT_S)
    assert outcome.parity.max_rel_error <= 1e-6
    assert outcome.metric.value == 1.0
    assert outcome.metric.n == 3
    assert outcome.drop.value == 0
    assert outcome.nodes_per_second == pytest.approx(NODES / outcome.timing.p50_ms * 1000)
    report = outcome.report
    assert report.parity.cases == 6
    assert report.result.latency_ms.runs == outcome.timing.runs
    assert report.result.peak_memory_bytes > 0
    assert report.result.size_bytes == (tmp_path / "m" / "model.onnx").stat().st_size
    assert report.data.nodes == NODES
    assert report.environment["threads"] == 1
    assert outcome.notes == ()


def test_an_artefact_that_differs(tmp_path):
    """Wrong weights fail parity, naming the cases; all-zero features do not show them."""
    path = write_tiny_bundle(tmp_path / "m", weight=(WEIGHT * 1.01).astype(np.float32))
    with pytest.raises(ParityError, match=r"'real' by 0.01.*Make the bundle again") as caught:
        validate_bundle(path, time_budget_s=SHORT_S)
    assert "zeros" not in str(caught.value)


def test_accuracy_from_given_data(tmp_path):
    """Data given is judged on the nodes the bundle names, whether dense or CSR."""
    bundle = write_tiny_bundle(tmp_path / "m", embed=0)
    rows, columns = np.nonzero(X)
    csr = {
        "x": None,
        "x_data": X[rows, columns],
        "x_indices": columns.astype(np.int32),
        "x_indptr": np.arange(0, X.size + 1, X.shape[1]),
        "x_shape": np.array(X.shape),
    }
    for changes in ({}, csr, {"y": (LABELS + 1) % 3}):
        data = write_data(tmp_path / "data.npz", **changes)
        outcome = validate_bundle(bundle, data=data, time_budget_s=SHORT_S)
        assert outcome.metric.value == (0.0 if "y" in changes else 1.0)


def test_no_data_is_said_plainly(tmp_path):
    """A bundle without test data says that accuracy was not measured, and how it would be."""
    outcome = validate_bundle(write_tiny_bundle(tmp_path / "m", embed=0), time_budget_s=SHORT_S)
    assert outcome.metric is None
    assert outcome.report.drop is None
    assert "accuracy not measured here" in outcome.notes[0]
    assert "--data X.npz" in outcome.report.notes[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": X[:3]}, "3 nodes where the bundle has 5"),
        ({"edge_index": EDGE_INDEX[::-1]}, "other edges"),
        ({"y": None}, "no labels 'y'"),
        ({"x": None}, "no features 'x'"),
        ({"x": X * np.nan}, "NaN"),
        ({"y": LABELS[:2]}, "for 5 nodes"),
        ({"y": LABELS + 5}, "outside the model's 3 classes"),
    ],
)
def test_data_that_does_not_fit(tmp_path, changes, words):
    """Data of another graph, or incomplete, is refused."""
    bundle = write_tiny_bundle(tmp_path / "m")
    data = write_data(tmp_path / "data.npz", **changes)
    with pytest.raises(DataError, match=words):
        validate_bundle(bundle, data=data, time_budget_s=SHORT_S)


def test_data_that_cannot_be_read(tmp_path):
    """A missing, damaged or torch file each has its mend."""
    bundle = write_tiny_bundle(tmp_path / "m")
    (tmp_path / "bad.npz").write_bytes(b"PK")
    for name, words in [("absent.npz", "no such file"), ("bad.npz", "cannot be read"), ("data.pt", r"numpy.savez")]:
        with pytest.raises(DataError, match=words):
            validate_bundle(bundle, data=tmp_path / name, time_budget_s=SHORT_S)


def test_a_damaged_bundle_is_not_run(tmp_path):
    """Hashes are checked before anything is run."""
    bundle = write_tiny_bundle(tmp_path / "m")
    (bundle / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="manifest says"):
        validate_bundle(bundle)


@pytest.mark.parametrize(("p50_ms", "code"), [(2.0, 0), (8.0, 4)])
@pytest.mark.parametrize("command", [validate_bundle, bench_bundle])
def test_the_speedup_is_that_of_this_run(tmp_path, monkeypatch, command, p50_ms, code):
    """On the machine of `compress` its baseline is held against the time found now: a slower engine fails."""
    bundle = write_tiny_bundle(tmp_path / "m", passes=(AppliedPass(spec="prune-channels"),))
    write_reports(bundle, report_of(), "")
    slow_down(monkeypatch, p50_ms)
    report = command(bundle).report
    assert report.baseline.latency_ms.p50 == 10
    assert report.baseline.measured_on is None
    for ratio in (report.speedup.against_baseline, report.speedup.against_exported):
        assert ratio.value == 10 / p50_ms
        assert ratio.ci95 is None
        assert "measured by compress" in ratio.method
    assert judge(report).exit_code == code
    assert report.notes == ("compress: from compress",)


def test_what_nothing_compressed_is_its_own_export(tmp_path, monkeypatch):
    """Without passes the result is the export, as fast as itself however slow it has become."""
    bundle = write_tiny_bundle(tmp_path / "m")
    write_reports(bundle, report_of(), "")
    slow_down(monkeypatch, 20.0)
    assert bench_bundle(bundle).report.speedup.against_exported == Ratio(value=1)


@pytest.mark.parametrize(
    ("environment", "measured_on", "words"),
    [
        ({"processor": "Z80"}, "Z80", "processor Z80 there, "),
        ({"cores": 999}, f"{this_processor().name}, set up otherwise", "cores 999 there, "),
        ({"threads": 7}, f"{this_processor().name}, set up otherwise", "threads 7 there, 1 here"),
        ({"versions": {"onnxruntime": "0.1"}}, f"{this_processor().name}, set up otherwise", "onnxruntime 0.1 there, "),
        ({"versions": {}}, f"{this_processor().name}, set up otherwise", "onnxruntime not known there, "),
    ],
)
def test_no_speedup_across_machines(tmp_path, environment, measured_on, words):
    """Where anything that decides the speed is another, no speedup is given, the note says why, the budget is open."""
    bundle = write_tiny_bundle(tmp_path / "m", passes=(AppliedPass(spec="prune-channels"),))
    write_reports(bundle, report_of(**environment), "")
    report = bench_bundle(bundle, time_budget_s=SHORT_S).report
    assert report.baseline.measured_on == report.exported.measured_on == measured_on
    assert report.speedup == Speedup()
    assert any(words in note for note in report.notes)
    assert report.environment["processor"] == this_processor().name
    assert judge(report).exit_code == 7


def test_no_speedup_over_another_request(tmp_path, monkeypatch):
    """Where `compress` timed a request of another size, times are no ratio, and the note names the sizes."""
    bundle = write_tiny_bundle(tmp_path / "m")
    there = report_of().model_copy(update={"data": DataInfo(nodes=9, request={"num_nodes": 9})})
    write_reports(bundle, there, "")
    slow_down(monkeypatch, 2.0)
    report = bench_bundle(bundle).report
    assert report.speedup.against_baseline is None
    assert report.data == DataInfo(nodes=9, request={})
    assert any("request with num_nodes 9 there, none here" in note for note in report.notes)


def test_bench_measures_and_judges_speed_only(tmp_path, monkeypatch):
    """Bench has throughput, and neither keeps nor judges the parity, accuracy and memory that `compress` found."""
    bundle = write_tiny_bundle(tmp_path / "m")
    write_reports(bundle, report_of(), "")
    slow_down(monkeypatch, 2.0)
    outcome = bench_bundle(bundle)
    report = outcome.report
    assert outcome.parity is None
    assert (report.parity, report.drop, report.result.metric, report.result.peak_memory_bytes) == (None,) * 4
    assert report.result.parameters == 12
    assert report.result.nodes_per_second == NODES / 0.002
    assert "nodes/s" in to_markdown(report)
    assert judge(report).exit_code == 0


def test_old_accuracy_is_not_judged_as_new(tmp_path):
    """Without test data the accuracy that `compress` found is gone, and a budget for it is open."""
    bundle = write_tiny_bundle(tmp_path / "m", embed=0)
    write_reports(bundle, report_of(), "")
    report = validate_bundle(bundle, time_budget_s=SHORT_S).report
    assert (report.drop, report.result.metric) == (None, None)
    assert report.parity.max_rel_error < 1e-6
    assert "accuracy not measured; the budget of 0.5pp cannot be decided" in judge(report).reasons


def test_steps_are_told(tmp_path):
    """Whoever waits sees what is being done."""
    bundle = write_tiny_bundle(tmp_path / "m")
    lines: list[str] = []
    validate_bundle(bundle, time_budget_s=SHORT_S, progress=lines.append)
    assert [line.split()[0] for line in lines] == [
        "verifying", "loading", "checking", "measuring", "timing", "measuring",
    ]  # fmt: skip
    lines.clear()
    bench_bundle(bundle, time_budget_s=SHORT_S, progress=lines.append)
    assert [line.split()[0] for line in lines] == ["verifying", "loading", "timing"]
