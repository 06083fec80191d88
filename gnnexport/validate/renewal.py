"""Bring the report of a bundle up to date with what was measured on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gnnexport.bundle.reader import Bundle
from gnnexport.bundle.report_schema import DataInfo, Drop, Measurement, MetricValue, Report, Speedup
from gnnexport.measure.environment import describe_environment
from gnnexport.measure.records import latency_record
from gnnexport.measure.timing import Timing
from gnnexport.validate.parity import Parity


@dataclass(frozen=True)
class Measured:
    """What was measured of the files of a bundle; `None` is not measured."""

    engine: str
    timing: Timing
    parity: Parity | None = None
    metric: MetricValue | None = None
    drop: Drop | None = None
    peak_memory_bytes: int | None = None


def renew(bundle: Bundle, measured: Measured, notes: list[str]) -> Report:
    """Return the report with the new measurements of the result.

    PyTorch cannot be run again here, so the original and the uncompressed export stay as `compress` measured
    them. On another processor they are marked with theirs and no speedup is given: a ratio of times from two
    machines says nothing.

    Args:
        bundle: with its report, if it has one.
        measured: on this machine.
        notes: are added to those of the report; one more is added to them when the processor is another.
    """
    report = bundle.report() or _blank(bundle)
    here = {**describe_environment(), "threads": bundle.manifest.target.threads}
    there = str(report.environment.get("processor", here["processor"]))
    moved = there != here["processor"]
    update: dict[str, Any] = {"environment": here, "drop": measured.drop or report.drop}
    update["result"] = report.result.model_copy(
        update={
            "latency_ms": latency_record(measured.timing),
            "runner": measured.engine,
            "size_bytes": bundle.size_bytes,
            "metric": measured.metric or report.result.metric,
            "peak_memory_bytes": measured.peak_memory_bytes or (None if moved else report.result.peak_memory_bytes),
        }
    )
    if measured.parity is not None:
        update["parity"] = measured.parity.record(bundle.manifest.tolerance, len(bundle.golden()))
    if moved:
        notes.append(f"the original was timed on {there}, not here: no speedup is given for this machine")
        update["speedup"] = Speedup()
        update["baseline"] = _mark(report.baseline, there)
        update["exported"] = _mark(report.exported, there)
    update["notes"] = tuple(dict.fromkeys([*report.notes, *notes]))
    return report.model_copy(update=update)


def _blank(bundle: Bundle) -> Report:
    graph = bundle.manifest.graph
    data = DataInfo() if graph is None else DataInfo(nodes=graph.nodes, edges=graph.edges)
    model = {"name": bundle.manifest.model.name, "class": bundle.manifest.model.class_name}
    return Report(model=model, data=data, target=bundle.manifest.target.spec)


def _mark(kept: Measurement, processor: str) -> Measurement:
    return kept.model_copy(update={"measured_on": kept.measured_on or processor})
