"""The functions behind `validate`, `bench` and `inspect` on a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnnexport import api
from gnnexport.errors import UsageError
from tests.unit.tiny_bundle import NODES, write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sound bundle."""
    return write_tiny_bundle(tmp_path / "m")


def test_validate_proves_and_bench_times(bundle: Path) -> None:
    """Both give a report with throughput; only `validate` has numbers and accuracy."""
    lines: list[str] = []
    proved = api.validate(bundle, time_budget="10ms", progress=lines.append)
    timed = api.bench(bundle, time_budget="10ms", progress=lines.append)
    assert (proved.exit_code, timed.exit_code) == (0, 0)
    assert proved.report.result.metric is not None
    assert timed.report.result.metric is None
    for outcome in (proved, timed):
        latency = outcome.report.result.latency_ms
        assert latency is not None
        assert outcome.report.result.nodes_per_second == pytest.approx(NODES / latency.p50 * 1000)
    assert lines.count("timing for about 0.01 s") == 2


def test_inspect_shows_a_bundle(bundle: Path) -> None:
    """The bytes shown are those of the model's files."""
    lines: list[str] = []
    size = (bundle / "model.onnx").stat().st_size
    assert f"model file model.onnx, {size:,} bytes" in api.inspect(bundle, progress=lines.append).text
    assert lines == [f"reading {bundle}"]


def test_an_outcome_without_bundles_says_so(bundle: Path) -> None:
    """What was not written is refused with the way out."""
    with pytest.raises(UsageError, match=r"no bundle was written\. .*the path that was given"):
        _ = api.bench(bundle, time_budget="10ms").bundle
    with pytest.raises(UsageError, match="there is no report"):
        _ = api.Outcome({}).report


def test_the_worst_target_decides_the_exit_code() -> None:
    """Every code of a verdict is ordered, wrong numbers first."""
    assert api.gravest([0, 7, 4, 3, 5]) == 5
    assert api.gravest([0, 7]) == 7
    assert api.gravest([]) == 0
