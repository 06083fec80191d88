"""Bring the report of a bundle up to date with what was measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gnnexport.bundle.reader import Bundle
from gnnexport.bundle.report_schema import DataInfo, Drop, LawResult, Measurement, MetricValue, Ratio, Report, Speedup
from gnnexport.measure.environment import describe_environment
from gnnexport.measure.records import latency_record, nodes_per_second
from gnnexport.measure.timing import Timing
from gnnexport.validate.parity import Parity


@dataclass(frozen=True)
class Measured:
    """What was measured of the files of a bundle; `None` is not measured.

    Args:
        request: dynamic sizes of the request that was timed, as `Runner.request_sizes` gives them.
    """

    engine: str
    timing: Timing | None
    parity: Parity | None = None
    metric: MetricValue | None = None
    drop: Drop | None = None
    peak_memory_bytes: int | None = None
    engine_not_run: str | None = None
    request: Mapping[str, int] = field(default_factory=dict)
    laws: tuple[LawResult, ...] = ()


def renew(bundle: Bundle, measured: Measured, notes: list[str]) -> Report:
    """Return the report with what was measured now; what was not is null, whatever `compress` had found.

    PyTorch cannot be run again here, so the original and the uncompressed export stay as `compress` measured
    them. Speedups are of this run against those. Where anything differs that decides the speed there are
    none: a ratio of times from two machines says nothing.

    Args:
        bundle: with its report, if it has one.
        measured: on this machine.
        notes: are added to those of the report; one more is added to them when there can be no speedup.
    """
    report = bundle.report() or _blank(bundle)
    here = {**describe_environment(), "threads": bundle.manifest.target.threads}
    differences = [*_differences(report.environment, here, measured.engine), *_other_request(report, measured)]
    baseline, exported = report.baseline, report.exported
    if differences and baseline.latency_ms is not None:
        if measured.timing is not None:
            found = "; ".join(differences)
            notes.append(f"no speedup is given, because the original was timed under other conditions: {found}")
        baseline, exported = _mark(baseline, report, differences), _mark(exported, report, differences)
    timed = {} if measured.timing is None else {"request": dict(measured.request)}
    update: dict[str, Any] = {
        "data": report.data.model_copy(update=timed),
        "environment": here,
        "baseline": baseline,
        "exported": exported,
        "result": report.result.model_copy(update=_result(bundle, measured)),
        "drop": measured.drop,
        "speedup": _speedup(bundle, report, measured.timing, comparable=not differences),
        "parity": None,
        "laws": measured.laws,
        "engine_not_run": measured.engine_not_run,
        "notes": (*(f"compress: {note}" for note in report.notes), *dict.fromkeys(notes)),
    }
    if measured.parity is not None:
        update["parity"] = measured.parity.record(bundle.manifest.tolerance, len(bundle.golden()))
    return report.model_copy(update=update)


def _result(bundle: Bundle, measured: Measured) -> dict[str, Any]:
    graph, timing = bundle.manifest.graph, measured.timing
    nodes = measured.request.get("num_nodes") if graph is None else graph.nodes
    return {
        "latency_ms": None if timing is None else latency_record(timing),
        "nodes_per_second": None if timing is None else nodes_per_second(nodes, timing),
        "runner": measured.engine,
        "size_bytes": bundle.size_bytes,
        "metric": measured.metric,
        "peak_memory_bytes": measured.peak_memory_bytes,
    }


def _speedup(bundle: Bundle, report: Report, timing: Timing | None, *, comparable: bool) -> Speedup:
    """Compare this run with the times in the report; a bundle that nothing compressed is its own export."""
    now = timing if comparable else None
    compressed = bool(bundle.manifest.passes)
    return Speedup(
        against_baseline=_ratio(report.baseline, now, "baseline"),
        against_exported=_ratio(report.exported, now, "export") if compressed else report.speedup.against_exported,
    )


def _ratio(form: Measurement, timing: Timing | None, name: str) -> Ratio | None:
    """Divide two medians that were not taken side by side; how sure that is cannot be said."""
    if form.latency_ms is None or timing is None:
        return None
    method = f"against the {name} measured by compress, not side by side: no interval"
    return Ratio(value=form.latency_ms.p50 / timing.p50_ms, method=method)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], engine: str) -> list[str]:
    """Name what decides the speed and is not the same, or is not known of one side."""
    pairs = [(name, there.get(name), here.get(name)) for name in ("processor", "cores", "threads")]
    pairs.append((engine, _version(there, engine), _version(here, engine)))
    return [
        f"{name} {'not known' if old is None else old} there, {'not known' if new is None else new} here"
        for name, old, new in pairs
        if old != new or (old is None and name != "threads")
    ]


def _other_request(report: Report, measured: Measured) -> list[str]:
    """Name the sizes in which the request timed here differs from the one that `compress` timed."""
    if measured.timing is None:
        return []
    there, here = report.data.request or {}, measured.request
    names = [name for name in (*there, *(set(here) - set(there))) if there.get(name) != here.get(name)]
    return [
        f"request with {name} {there.get(name, 'not known')} there, {here.get(name, 'none')} here" for name in names
    ]


def _version(environment: Mapping[str, Any], library: str) -> str | None:
    versions = environment.get("versions")
    return versions.get(library) if isinstance(versions, Mapping) else None


def _blank(bundle: Bundle) -> Report:
    graph = bundle.manifest.graph
    data = DataInfo() if graph is None else DataInfo(nodes=graph.nodes, edges=graph.edges)
    model = {"name": bundle.manifest.model.name, "class": bundle.manifest.model.class_name}
    return Report(model=model, data=data, target=bundle.manifest.target.spec)


def _mark(kept: Measurement, report: Report, differences: list[str]) -> Measurement:
    """Say where an older measurement was taken."""
    if kept.latency_ms is None:
        return kept
    processor = str(report.environment.get("processor", "a processor not recorded"))
    elsewhere = any(difference.startswith("processor ") for difference in differences)
    return kept.model_copy(update={"measured_on": processor if elsewhere else f"{processor}, set up otherwise"})
