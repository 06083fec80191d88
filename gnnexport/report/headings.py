"""The title of a report and the facts under it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from gnnexport.bundle.report_schema import Report


def title(report: Report) -> str:
    """Name the model, the target and the verdict in one line."""
    name = str(report.model.get("name", "model"))
    target = "" if report.target is None else f" for {report.target}"
    return f"{name}{target}: {report.verdict}"


def doings(report: Report) -> tuple[str, ...]:
    """Say in a line each what the passes did; options are told only of a pass that ran with several."""
    specs = {step.name for step in report.steps if step.notes}
    kinds = Counter(_kind(spec) for spec in specs)
    names = {spec: spec if kinds[_kind(spec)] > 1 else _kind(spec) for spec in specs}
    return tuple(f"{names[step.name]}: {note}" for step in report.steps for note in step.notes)


def _kind(spec: str) -> str:
    return spec.partition("{")[0]


def _counted(counts: Mapping[str, int | None]) -> str:
    """Write counts in the order given: `188 graphs, 3,371 nodes`; what is not known stays out."""
    known = {name: value for name, value in counts.items() if value is not None}
    return ", ".join(f"{value:,} {name[:-1] if value == 1 else name}" for name, value in known.items())


def facts(report: Report) -> tuple[tuple[str, str], ...]:
    """Say what the numbers were taken on."""
    found: list[tuple[str, str]] = []
    data = report.data
    if data.nodes is not None:
        counts = {"graphs": data.graphs, "nodes": data.nodes, "edges": data.edges, "pairs": data.pairs}
        found.append(("data", f"{data.name or 'unnamed'}: {_counted(counts)}"))
    if data.request:
        counts = {name: data.request.get(f"num_{name}") for name in (*counts, "targets")}
        found.append(("request timed", _counted(counts)))
    environment = report.environment
    if "processor" in environment:
        found.append(("machine", f"{environment['processor']}, {environment.get('cores', '?')} cores"))
    if "threads" in environment:
        found.append(("threads", str(environment["threads"])))
    versions = environment.get("versions")
    if isinstance(versions, dict) and versions:
        found.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    if report.drop is not None and report.drop.method:
        found.append(("interval of the drop", report.drop.method))
    ratio = report.speedup.against_baseline
    if ratio is not None and ratio.method:
        found.append(("speedup" if ratio.ci95 is None else "interval of the speedup", ratio.method))
    return tuple(found)
