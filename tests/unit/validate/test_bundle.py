import json

import numpy as np
import pytest

from gnnexport.bundle.processor import this_processor
from gnnexport.bundle.report_files import write_reports
from gnnexport.bundle.report_schema import Budgets, Latency, Measurement, Ratio, Report, Speedup
from gnnexport.errors import DataError, ParityError, UsageError
from gnnexport.validate.bundle import bench_bundle, validate_bundle
from tests.unit.tiny_bundle import EDGE_INDEX, LABELS, NODES, WEIGHT, X, write_tiny_bundle

SHORT_S = 0.01


def report_of(processor: str) -> Report:
    """A report as `compress` leaves it."""
    return Report(
        environment={"processor": processor},
        budgets=Budgets(max_drop="0.5pp"),
        baseline=Measurement(latency_ms=Latency(p50=10, p95=10, p99=10, runs=8), runner="pytorch-csr"),
        speedup=Speedup(against_baseline=Ratio(value=3)),
        notes=("from compress",),
    )


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
    assert report.result.size_bytes == outcome.bundle.size_bytes
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


def test_the_original_keeps_its_measurements(tmp_path):
    """On the same processor the baseline and the speedup measured by `compress` stand."""
    bundle = write_tiny_bundle(tmp_path / "m")
    write_reports(bundle, report_of(this_processor().name), "")
    report = validate_bundle(bundle, time_budget_s=SHORT_S).report
    assert report.baseline.latency_ms.p50 == 10
    assert report.baseline.measured_on is None
    assert report.speedup.against_baseline.value == 3
    assert report.budgets.max_drop == "0.5pp"
    assert report.notes == ("from compress",)


def test_no_speedup_across_machines(tmp_path):
    """On another processor the baseline is marked with its own, and no speedup is given."""
    bundle = write_tiny_bundle(tmp_path / "m")
    write_reports(bundle, report_of("Z80"), "")
    report = validate_bundle(bundle, time_budget_s=SHORT_S).report
    assert report.baseline.measured_on == "Z80"
    assert report.speedup.against_baseline is None
    assert any("timed on Z80" in note for note in report.notes)
    assert report.environment["processor"] == this_processor().name


def test_bench_measures_latency_only(tmp_path):
    """Bench leaves accuracy and parity alone."""
    outcome = bench_bundle(write_tiny_bundle(tmp_path / "m"), time_budget_s=SHORT_S)
    assert outcome.timing.runs > 0
    assert outcome.parity is None
    assert json.loads(outcome.report.to_json())["result"]["latency_ms"]["p50"] > 0
