"""What the benchmarks share: the figures of a contender, tables in Markdown, their options, and the file they write."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.real_data import ROOT
from gnnexport.measure.environment import busy_note, describe_environment
from gnnexport.measure.timing import Timing, ratio
from gnnexport.native.library import path_name, why_missing

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Row:
    """One contender: its times, how many times longer than ours it takes, and its difference from the reference.

    Args:
        name: of the contender.
        p50_ms: median of its runs.
        p95_ms: 95th percentile.
        runs: that were timed.
        times_ours: its median over ours, from runs side by side.
        times_ours_ci95: interval of that.
        max_rel_error: largest difference over the largest number of the reference; `None` where nothing was compared.
    """

    name: str
    p50_ms: float
    p95_ms: float
    runs: int
    times_ours: float
    times_ours_ci95: tuple[float | None, float | None]
    max_rel_error: float | None

    @classmethod
    def of(cls, name: str, timing: Timing, ours: Timing, error: float | None, **more: Any) -> Self:
        """Set a timing against ours; `more` are the fields that a subclass adds."""
        times = ratio(timing, ours)
        interval = (times.low, times.high)
        return cls(name, timing.p50_ms, timing.p95_ms, timing.runs, times.value, interval, error, **more)

    def cells(self) -> list[str]:
        """Return what `TIMED` heads."""
        interval = "–".join("?" if bound is None else f"{bound:.2f}" for bound in self.times_ours_ci95)
        return [
            self.name,
            _ms(self.p50_ms),
            _ms(self.p95_ms),
            f"{self.times_ours:.2f}",
            interval,
            "" if self.max_rel_error is None else f"{self.max_rel_error:.1e}",
        ]


TIMED = ("path", "p50 ms", "p95 ms", "times ours", "95 % interval", "largest relative error")
"""The heads of `Row.cells`."""


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Give the mean, and how far values of several seeds lie apart: their standard deviation."""
    around = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{around}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render cells as a table."""
    return "\n".join([_line(heads), "|---" * len(heads) + "|", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def options(
    doc: str | None, *, threads: bool = True, budget_s: float | None = None, quick: bool = False
) -> argparse.ArgumentParser:
    """Return a parser of the options that benchmarks have in common.

    Args:
        doc: what the benchmark does.
        threads: it can be told how many threads each contender may use.
        budget_s: default of how long to time; `None` where that is not for the user to say.
        quick: it has a form of tiny sizes.
    """
    parser = argparse.ArgumentParser(description=doc)
    if threads:
        parser.add_argument("--threads", type=int, default=2)
    if budget_s is not None:
        parser.add_argument("--budget", type=float, default=budget_s, help="seconds of timing for each table")
    where = "where the figures go, as JSON"
    if quick:
        parser.add_argument("--quick", action="store_true", help="tiny sizes and few runs, to see that all of it works")
        where += "; those of --quick go nowhere unless told"
    parser.add_argument("--output", type=Path, help=where)
    return parser


def save(found: Mapping[str, Any], name: str, given: argparse.Namespace) -> None:
    """Write figures with what they were taken on, to where the options say or to `results/NAME.json`."""
    options_given = vars(given)
    if options_given.get("quick") and given.output is None:
        return
    path = given.output or RESULTS / f"{name}.json"
    environment = describe_environment()
    if "threads" in options_given:
        environment["threads"] = given.threads
    if why_missing() is None:
        environment["kernels"] = path_name()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**found, "environment": environment}, indent=1) + "\n")
    print(f"written to {path}")


def busy(threads: int) -> list[str]:
    """Say, also on the terminal, when the machine had other work while something was timed."""
    notes = busy_note(threads)
    print("".join(f"\n{note}" for note in notes))
    return notes
