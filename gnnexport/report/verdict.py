"""Turn a report into a verdict, its reasons, and the exit code.

The first that applies: 5 numbers differ, 3 accuracy budget missed, 4 speed budget missed, 7 a budget the user
set cannot be decided, 0. The point estimate is judged; its interval is printed beside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gnnexport.bundle.report_schema import Budgets, Ratio, Report
from gnnexport.errors import EXIT_ACCURACY, EXIT_INCONCLUSIVE, EXIT_LATENCY, EXIT_OK, EXIT_PARITY
from gnnexport.measure.budgets import parse_budget, parse_speedup
from gnnexport.measure.metrics import find

Verdict = Literal["pass", "fail", "inconclusive"]

GRAVITY = (EXIT_PARITY, EXIT_ACCURACY, EXIT_LATENCY, EXIT_INCONCLUSIVE, EXIT_OK)
"""Every exit code of a verdict, the gravest first."""


@dataclass(frozen=True)
class Judgement:
    """A verdict, one reason for each thing looked at, and the exit code."""

    verdict: Verdict
    reasons: tuple[str, ...]
    exit_code: int

    def write_into(self, report: Report) -> Report:
        """Return the report with this verdict in it."""
        return report.model_copy(update={"verdict": self.verdict, "reasons": self.reasons})


@dataclass(frozen=True)
class _Finding:
    code: int
    reason: str


def judge(report: Report, budgets: Budgets | None = None) -> Judgement:
    """Judge a report.

    Args:
        report: with its measurements.
        budgets: other budgets than those in the report.

    Raises:
        SpecError: a budget that cannot be read, or whose unit does not suit the metric.
    """
    wanted = report.budgets if budgets is None else budgets
    findings = [_parity(report), _accuracy(report, wanted), _speed(report, wanted)]
    code = gravest(finding.code for finding in findings)
    verdict: Verdict = "pass" if code == EXIT_OK else "inconclusive" if code == EXIT_INCONCLUSIVE else "fail"
    return Judgement(verdict, tuple(finding.reason for finding in findings), code)


def gravest(codes: Iterable[int]) -> int:
    """Return the exit code that says most; that of success when there are none."""
    return min(codes, key=GRAVITY.index, default=EXIT_OK)


def _parity(report: Report) -> _Finding:
    parity = report.parity
    if parity is None:
        return _Finding(EXIT_OK, "numerical parity not measured")
    size = f"largest error {parity.max_rel_error:.2g} of the largest output, tolerance {parity.tolerance:g}"
    if parity.max_rel_error > parity.tolerance:
        return _Finding(EXIT_PARITY, f"the artefact differs from the model: {size}{_moves(parity.moved)}")
    ties = ", all of them near-ties" if parity.moved else ""
    flips = f"; {parity.flipped} rows differ by more, as levels on a border explain" if parity.flipped else ""
    return _Finding(EXIT_OK, f"numbers agree: {size}{_moves(parity.moved)}{ties}{flips}")


def _moves(moved: int | None) -> str:
    """Say how many predictions differ."""
    if moved is None:
        return ""
    return f"; {moved or 'no'} prediction{'' if moved in (0, 1) else 's'} moved"


def _accuracy(report: Report, budgets: Budgets) -> _Finding:
    metric, drop = report.result.metric, report.drop
    if metric is None or drop is None:
        code = EXIT_INCONCLUSIVE if budgets.max_drop and budgets.max_drop_set else EXIT_OK
        wanted = f"; the budget of {budgets.max_drop} cannot be decided" if code else ""
        what = "accuracy" if metric is None else f"{metric.name} drop"
        return _Finding(code, f"{what} not measured{wanted}")
    if drop.value is None:
        seen = f"{metric.name} has no value, as the result answers NaN or infinity"
        if budgets.max_drop is None:
            return _Finding(EXIT_OK, f"{seen}; no budget set")
        return _Finding(EXIT_ACCURACY, f"{seen}: misses the budget of {parse_budget(budgets.max_drop, metric.name)}")
    seen = f"{metric.name} drop {format_drop(drop.value, metric.name)}{_drop_interval(report)}"
    if budgets.max_drop is None:
        return _Finding(EXIT_OK, f"{seen}; no budget set")
    budget = parse_budget(budgets.max_drop, metric.name)
    if drop.value > budget.value + 1e-12:
        return _Finding(EXIT_ACCURACY, f"{seen} exceeds the budget of {budget}{_undecided(report, budget.value)}")
    return _Finding(EXIT_OK, f"{seen} is within the budget of {budget}{_undecided(report, budget.value)}")


def _speed(report: Report, budgets: Budgets) -> _Finding:
    if budgets.min_speedup is None:
        return _Finding(EXIT_OK, _seen_speed(report))
    budget = parse_speedup(budgets.min_speedup)
    ratio = report.speedup.against_baseline if budget.against == "baseline" else report.speedup.against_exported
    if ratio is None:
        code = EXIT_INCONCLUSIVE if budgets.min_speedup_set else EXIT_OK
        wanted = f"; the budget of {budget} cannot be decided" if code else ""
        return _Finding(code, f"speedup against the {_named(budget.against)} not measured{_why(report)}{wanted}")
    seen = f"speedup {format_ratio(ratio)} against the {_named(budget.against)}"
    if ratio.value < budget.value:
        return _Finding(EXIT_LATENCY, f"{seen} misses the budget of {budget}")
    return _Finding(EXIT_OK, f"{seen} is within the budget of {budget}")


def _seen_speed(report: Report) -> str:
    ratio = report.speedup.against_baseline
    if report.result.latency_ms is None:
        return f"latency not measured{_why(report)}"
    if ratio is None:
        return "speedup against the original not measured; no budget set"
    return f"speedup {format_ratio(ratio)} against the original; no budget set"


def _why(report: Report) -> str:
    """Say why nothing was timed, where the engine could not run."""
    return "" if report.engine_not_run is None else f": {report.engine_not_run}"


def format_drop(value: float, metric: str) -> str:
    """Write a drop in the unit of its metric: `0.30 pp` or `2.0 %`."""
    # Adding 0.0 makes plain zero of minus zero.
    return f"{round(value * 100, 2) + 0.0:.2f} {'pp' if find(metric).is_share else '%'}"


def format_ratio(ratio: Ratio) -> str:
    """Write a ratio with its interval: `2.10x (95% CI 2.00 to 2.21)`."""
    interval = "" if ratio.ci95 is None else f" (95% CI {ratio.ci95[0]:.2f} to {ratio.ci95[1]:.2f})"
    return f"{ratio.value:.2f}x{interval}"


def _drop_interval(report: Report) -> str:
    drop = report.drop
    if drop is None or drop.ci95 is None or report.result.metric is None:
        return ""
    low, high = drop.ci95
    unit = "pp" if find(report.result.metric.name).is_share else "%"
    return f" (95% CI {low * 100:.2f} to {high * 100:.2f} {unit}, n = {report.result.metric.n})"


def _undecided(report: Report, budget: float) -> str:
    """Say how many test rows would decide, when the interval straddles the budget."""
    drop = report.drop
    if drop is None or drop.ci95 is None or not drop.ci95[0] <= budget <= drop.ci95[1]:
        return ""
    rows = f"test {report.result.metric.level}s" if report.result.metric else "test rows"
    needed = f"more {rows}" if drop.deciding_n is None else f"about {drop.deciding_n:,} {rows}"
    return f", by the point estimate; {needed} would decide"


def _named(against: str) -> str:
    return "original" if against == "baseline" else "uncompressed export"
