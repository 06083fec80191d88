"""Prove a bundle on this machine: its numbers, its accuracy, its latency."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gnnexport.bundle.evaluation import EvalData
from gnnexport.bundle.features import Features
from gnnexport.bundle.reader import Bundle, open_bundle
from gnnexport.bundle.report_schema import Drop, MetricValue, Report, Speedup
from gnnexport.errors import DataError, ParityError
from gnnexport.measure.budgets import parse_budget
from gnnexport.measure.environment import describe_environment
from gnnexport.measure.records import latency_record
from gnnexport.measure.timing import Timing, compare
from gnnexport.runtime.runner import Runner, load
from gnnexport.validate.accuracy import measure_accuracy
from gnnexport.validate.data import read_test_data
from gnnexport.validate.parity import EXACT, Parity, compare_outputs


@dataclass(frozen=True)
class Validation:
    """What was measured here, and the bundle's report brought up to date; its verdict is still the old one."""

    bundle: Bundle
    report: Report
    parity: Parity | None
    metric: MetricValue | None
    drop: Drop | None
    timing: Timing | None
    nodes_per_second: float | None
    notes: tuple[str, ...]


def validate_bundle(path: Path | str, *, data: Path | None = None, time_budget_s: float = 10.0) -> Validation:
    """Check parity from the bundle's own vectors, then accuracy where there is data, then latency.

    Args:
        path: the bundle.
        data: `.npz` with features and labels, when the bundle holds none or others are wanted.
        time_budget_s: seconds of timing.

    Raises:
        ParityError: an output differs by more than the tolerance of the manifest.
        UsageError: not a bundle, damaged, or data that does not fit.
    """
    bundle = open_bundle(path)
    notes: list[str] = []
    with load(bundle) as runner:
        parity = check_parity(bundle, runner, notes)
        evaluation = _evaluation(bundle, data, notes)
        metric, drop = (
            (None, None) if evaluation is None else measure_accuracy(runner, evaluation, budget=_budget(bundle))
        )
        timing = time_runner(bundle, runner, time_budget_s)
        report = _update(bundle, runner, parity, metric, drop, timing, notes)
    return Validation(bundle, report, parity, metric, drop, timing, _throughput(bundle, timing), tuple(notes))


def bench_bundle(path: Path | str, *, time_budget_s: float = 10.0) -> Validation:
    """Measure latency and throughput only.

    Raises:
        UsageError: not a bundle, or damaged.
    """
    bundle = open_bundle(path)
    with load(bundle) as runner:
        timing = time_runner(bundle, runner, time_budget_s)
        report = _update(bundle, runner, None, None, None, timing, [])
    return Validation(bundle, report, None, None, None, timing, _throughput(bundle, timing), ())


def check_parity(bundle: Bundle, runner: Runner, notes: list[str]) -> Parity | None:
    """Run every golden case; `None`, with a note, when there are none.

    Raises:
        ParityError: an output differs by more than the tolerance; names every case that does.
    """
    tolerance = bundle.manifest.tolerance
    cases = bundle.golden()
    if not cases:
        notes.append("parity not checked: the bundle holds no golden cases")
        return None
    total = EXACT
    wrong = []
    for case in cases:
        parity = compare_outputs(case.expected, runner(case.feeds()), case.rows)
        total = total.merge(parity)
        if not parity.max_rel_error <= tolerance:
            wrong.append(f"'{case.name}' by {parity.max_rel_error:.2g}")
    if wrong:
        what = f"golden cases differ by more than {tolerance:g} of the largest output: {', '.join(wrong)}"
        mend = "Make the bundle again on this machine; if it still differs, report it with manifest.json"
        raise ParityError.at(str(bundle.path), what, mend)
    return total


def time_runner(bundle: Bundle, runner: Runner, time_budget_s: float) -> Timing:
    """Time one inference on the bundle's first golden case, or on noise of the right shape."""
    cases = bundle.golden()
    feeds = cases[0].feeds() if cases else {tensor.name: _noise(tensor.shape) for tensor in runner.inputs}
    return compare({"result": lambda: runner(feeds)}, budget_s=time_budget_s)["result"]


def _noise(shape: tuple[int | str, ...]) -> NDArray[Any]:
    rows, channels = (size if isinstance(size, int) else 1 for size in shape)
    return Features(kind="normal", shape=(rows, channels)).make()


def _evaluation(bundle: Bundle, data: Path | None, notes: list[str]) -> EvalData | None:
    stored = bundle.evaluation()
    if stored is None:
        if data is not None:
            what = "the bundle does not say which nodes are the test nodes, so data cannot be judged"
            raise DataError.at(str(bundle.path), what, "Make the bundle again with --data")
        notes.append("accuracy not measured: the bundle was made without data")
        return None
    if data is not None:
        return read_test_data(data, stored, bundle.manifest.graph)
    if stored.y is None:
        notes.append("accuracy not measured: the bundle holds no test data; give it with --data X.npz")
        return None
    return stored


def _budget(bundle: Bundle) -> float:
    report = bundle.report()
    text = None if report is None else report.budgets.max_drop
    return 0.0 if text is None else parse_budget(text).value


def _throughput(bundle: Bundle, timing: Timing) -> float | None:
    graph = bundle.manifest.graph
    return None if graph is None else graph.nodes / (timing.p50_ms / 1000)


def _update(
    bundle: Bundle,
    runner: Runner,
    parity: Parity | None,
    metric: MetricValue | None,
    drop: Drop | None,
    timing: Timing,
    notes: list[str],
) -> Report:
    """Renew the measurements of the result; the baseline stays, marked with the machine it was measured on."""
    report = bundle.report() or Report(target=bundle.manifest.target.spec)
    here = describe_environment()
    there = report.environment.get("processor", here["processor"])
    moved = there != here["processor"]
    result = report.result.model_copy(
        update={
            "latency_ms": latency_record(timing),
            "runner": runner.name,
            "size_bytes": bundle.size_bytes,
            "metric": metric or report.result.metric,
        }
    )
    update: dict[str, Any] = {"result": result, "environment": here, "drop": drop or report.drop}
    if parity is not None:
        update["parity"] = parity.record(bundle.manifest.tolerance, len(bundle.golden()))
    if moved:
        notes.append(f"the original was timed on {there}, not here: no speedup is given for this machine")
        update["speedup"] = Speedup()
        for name in ("baseline", "exported"):
            kept = getattr(report, name)
            update[name] = kept.model_copy(update={"measured_on": kept.measured_on or there})
    update["notes"] = tuple(dict.fromkeys([*report.notes, *notes]))
    return report.model_copy(update=update)
