"""Turn measurements into what the report holds of them."""

from __future__ import annotations

from gnnexport.bundle.report_schema import Latency, Ratio
from gnnexport.measure.intervals import Interval
from gnnexport.measure.timing import Timing


def latency_record(timing: Timing) -> Latency:
    """Keep the percentiles of a timing."""
    return Latency(p50=timing.p50_ms, p95=timing.p95_ms, p99=timing.p99_ms, runs=timing.runs)


def ratio_record(interval: Interval) -> Ratio:
    """Keep a ratio with its interval."""
    return Ratio(value=interval.value, ci95=interval.ci95, method=interval.method)


def nodes_per_second(nodes: int | None, timing: Timing) -> float | None:
    """Return the throughput of inferences over a whole graph; `None` where its size is not known."""
    return None if nodes is None else nodes / (timing.p50_ms / 1000)
