import json

import pytest
from pydantic import ValidationError

from gnnexport.bundle.report_files import write_reports
from gnnexport.bundle.report_schema import Bits, Latency, Measurement, Report, Result, Step, parse_report
from gnnexport.errors import UsageError


def test_keys_of_the_file():
    """The file has the documented keys, what was not measured is null, bits and sparsity appear only when set."""
    report = Report(steps=(Step(name="prune-channels{keep=0.5}", kept=True),))
    values = json.loads(report.to_json())
    wanted = "schema verdict reasons model data environment baseline exported result drop speedup parity steps lowering"
    assert set(wanted.split()) <= set(values)
    assert values["schema"] == 1
    assert values["drop"] is None
    assert values["steps"][0]["pass"] == "prune-channels{keep=0.5}"
    assert set(values["speedup"]) == {"against_baseline", "against_exported"}
    assert values["baseline"]["peak_memory_bytes"] is None
    assert "bits" not in values["result"]
    assert "sizes" in values["result"]
    assert Report(result=Result(bits=Bits(stored=8))).to_dict()["result"]["bits"]["stored"] == 8


def test_round_trip():
    """A report reads back equal, with keys it does not know."""
    report = Report(
        baseline=Measurement(latency_ms=Latency(p50=1, p95=2, p99=3, runs=8)), result=Result(size_bytes=1 << 40)
    )
    assert parse_report(report.to_json(), "report.json") == report
    grown = json.dumps({**report.to_dict(), "later": 1})
    assert parse_report(grown, "report.json").to_dict()["later"] == 1


def test_nan_is_refused():
    """A number that is none cannot get into a report."""
    with pytest.raises(ValidationError, match="finite"):
        Latency(p50=float("nan"), p95=1, p99=1, runs=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ('{"schema": 9}', "newer.*upgrade"), ('{"schema": 1, "verdict": "?"}', "verdict")],
)
def test_damaged_reports(text, words):
    """A damaged report says what is wrong with it."""
    with pytest.raises(UsageError, match=words):
        parse_report(text, "report.json")


def test_reports_are_written_beside_the_model(tmp_path):
    """Both forms are written, and nothing else."""
    write_reports(tmp_path, Report(), "# report\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
