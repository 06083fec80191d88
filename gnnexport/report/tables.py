"""The tables of a report as plain rows, for every way of rendering them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gnnexport.bundle.report_schema import Bits, LawResult, Measurement, Report, SparseWeight, Sparsity
from gnnexport.conformance.laws import LAWS
from gnnexport.measure.metrics import find
from gnnexport.report.quantities import NOT_MEASURED, count, milliseconds, share, size, throughput


@dataclass(frozen=True)
class Table:
    """A title, the names of its columns, and its rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report) -> tuple[Table, ...]:
    """Make every table that has something in it."""
    made = (
        _measurements(report), _sizes(report), *_bits(report), *_sparsity(report), _laws(report), _steps(report),
        _lowerings(report),
    )  # fmt: skip
    return tuple(table for table in made if table.rows)


def _measurements(report: Report) -> Table:
    forms: Sequence[tuple[str, Measurement]] = (
        ("original", report.baseline),
        ("exported", report.exported),
        ("result", report.result),
    )
    lines: tuple[tuple[str, Callable[[Measurement], str]], ...] = (
        (_metric_name(forms), _metric),
        ("parameters", lambda form: count(form.parameters)),
        ("MACs", lambda form: count(form.macs)),
        ("MACs, linear", lambda form: count(form.macs_linear)),
        ("MACs, aggregation", lambda form: count(form.macs_aggregation)),
        ("size", lambda form: size(form.size_bytes)),
        ("latency p50", lambda form: _percentile(form, "p50")),
        ("latency p95", lambda form: _percentile(form, "p95")),
        ("latency p99", lambda form: _percentile(form, "p99")),
        ("throughput", lambda form: throughput(form.nodes_per_second)),
        ("peak memory", lambda form: size(form.peak_memory_bytes)),
        ("run by", lambda form: form.runner or NOT_MEASURED),
        ("measured on", lambda form: form.measured_on or "this machine"),
    )
    rows = []
    for name, show in lines:
        cells = tuple(show(form) for _, form in forms)
        if any(cell not in (NOT_MEASURED, "this machine") for cell in cells):
            rows.append((name, *cells))
    return Table("Measurements", ("", *(name for name, _ in forms)), tuple(rows))


def _percentile(form: Measurement, name: str) -> str:
    return milliseconds(None if form.latency_ms is None else getattr(form.latency_ms, name))


def _metric(form: Measurement) -> str:
    metric = form.metric
    if metric is None or metric.value is None:
        return NOT_MEASURED if metric is None else "none: NaN"
    return share(metric.value) if find(metric.name).is_share else f"{metric.value:.4g}"


def _metric_name(forms: Sequence[tuple[str, Measurement]]) -> str:
    metrics = [form.metric for _, form in forms if form.metric is not None]
    if not metrics:
        return "metric"
    first = metrics[0]
    rows = f"{first.n:,} {first.level}{'' if first.n == 1 else 's'}"
    return f"{first.name}{'' if find(first.name).is_share else ', lower is better'} ({first.split}, {rows})"


def _sizes(report: Report) -> Table:
    sizes = report.result.sizes
    parts = {} if sizes is None else sizes.model_dump()
    rows = tuple((name.removesuffix("_bytes"), size(value)) for name, value in parts.items() if isinstance(value, int))
    return Table("Where the bytes go", ("part", "size"), rows)


def _bits(report: Report) -> tuple[Table, Table]:
    """Show the bits in all, and operand by operand."""
    bits = report.result.bits or Bits()
    lines = (
        ("average bits, as papers count", bits.average_paper, "the inputs of layers alone, without steps and widths"),
        ("32 / average bits", bits.ratio_paper, "the ratio that papers give"),
        ("bits stored", bits.stored, "a number of the features takes in its containers"),
        ("bits executed", bits.executed, "what the arithmetic on them runs on"),
        ("bits simulated", bits.simulated, "of those that are computed in float"),
        ("float32 bytes / bytes", bits.ratio_bytes, f"true bytes, {size(bits.feature_bytes)} with steps and widths"),
    )
    rows = tuple((name, f"{value:.2f}", about) for name, value, about in lines if value is not None)
    operands = tuple(
        (
            item.name,
            item.kind,
            item.per,
            count(item.count),
            f"{item.bits:.3g}",
            f"{item.stored:.3g}",
            f"{item.executed:.3g}: {item.arithmetic}",
            size(item.size_bytes),
        )
        for item in bits.operands
    )
    columns = ("operand", "kind", "a step for each", "numbers", "bits", "stored", "executed", "size")
    return Table("Bits", ("", "", "of what"), rows), Table("Quantised operands", columns, operands)


def _sparsity(report: Report) -> tuple[Table, Table, Table]:
    """Show what was removed in all, and layer by layer and matrix by matrix."""
    found = report.result.sparsity or Sparsity()
    lines = (
        ("edges removed", found.edges, "of all layers, loops aside"),
        ("weights stored as zero", found.weights_stored, _bytes(found)),
        ("weights executed as zero", found.weights_executed, "of the same numbers: never multiplied"),
    )
    there = (found.edges is not None, *(2 * [found.weights_stored is not None]))
    rows = tuple(
        (name, share(value), about) for (name, value, about), is_there in zip(lines, there, strict=True) if is_there
    )
    layers = tuple(
        (item.name, count(item.total), count(item.kept), share(1 - item.kept / item.total if item.total else 0.0))
        for item in found.layers
    )
    weights = tuple(
        (
            item.name,
            count(item.numbers),
            share(item.zeros / item.numbers),
            _executed(item),
            f"{size(item.stored_bytes)} of {size(item.dense_bytes)}",
        )
        for item in found.weights
    )
    return (
        Table("Sparsity", ("", "", "of what"), rows),
        Table("Edges of layers", ("layer", "edges", "kept", "removed"), layers),
        Table("Weights with zeros", ("matrix", "numbers", "zeros", "executed as zero", "stored"), weights),
    )


def _executed(item: SparseWeight) -> str:
    if item.skipped is None:
        return f"up to the engine, which may: {item.layout}"
    return f"{item.layout}: {share(item.skipped / item.numbers)}" if item.skipped else "stored, not executed"


def _bytes(found: Sparsity) -> str:
    about = "of the numbers in all matrices"
    return f"{about}: {size(found.stored_bytes)}, with their zeros {size(found.dense_bytes)}"


def _laws(report: Report) -> Table:
    rows = tuple(
        (
            result.law,
            count(result.requests) if result.requests else "not demanded" if result.exempt else "not checked",
            "" if result.max_rel_error is None else f"{result.max_rel_error:.2g}",
            _told_of(result),
        )
        for result in report.laws
    )
    return Table("Laws of message passing", ("law", "requests", "largest error", ""), rows)


def _told_of(result: LawResult) -> str:
    """Say why a law was not checked, or not on all graphs, and what it is about; a later version may know others."""
    if result.exempt is not None:
        return f"the model itself does not obey it: {result.exempt}"
    about = LAWS[result.law].about if result.law in LAWS and result.requests else ""
    return "; ".join(part for part in (about, result.unchecked) if part)


def _steps(report: Report) -> Table:
    rows = tuple(
        (
            step.name,
            "kept" if step.kept else "dropped",
            "" if step.seconds is None else f"{step.seconds:.1f} s",
            "" if step.metric is None else f"{step.metric:.4f}",
            "" if step.parameters is None else count(step.parameters),
            "" if step.macs is None else count(step.macs),
        )
        for step in report.steps
    )
    return Table("Passes", ("pass", "", "time", "validation", "parameters", "MACs"), rows)


def _lowerings(report: Report) -> Table:
    rows = tuple(
        (
            lowering.op,
            lowering.chosen,
            ", ".join(
                tried.name if tried.latency_ms is None else f"{tried.name} {milliseconds(tried.latency_ms)}"
                for tried in lowering.candidates
            ),
        )
        for lowering in report.lowering
    )
    return Table("Lowerings", ("op", "chosen", "candidates"), rows)
