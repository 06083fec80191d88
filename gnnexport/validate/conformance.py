"""Run the conformance kit of a bundle: its golden cases, and the laws that its model obeys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.golden import GoldenCase, LawCheck
from gnnexport.bundle.manifest import Manifest
from gnnexport.bundle.reader import Bundle
from gnnexport.bundle.report_schema import LawResult
from gnnexport.conformance.laws import LAWS, derive
from gnnexport.errors import Problem, UnsupportedError, UsageError
from gnnexport.runtime.runner import Runner
from gnnexport.validate.parity import EXACT, Parity, compare_outputs

MEND = "Make the bundle again on this machine; if it still differs, report it with manifest.json"

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Failure:
    """What the artefact gets wrong.

    Args:
        case: name of the golden case.
        law: that is broken there; `None` where the answer itself is not the expected one.
        error: relative to the largest output.
        reason: why the engine gave up; `None` where it answered.
    """

    case: str
    law: str | None
    error: float
    reason: str | None = None

    def __str__(self) -> str:
        size = f"by {self.error:.2g}" if self.reason is None else f"cannot be run: {self.reason}"
        if self.law is None:
            return f"'{self.case}' {size}"
        return f"{self.law} on '{self.case}' {size} ({LAWS[self.law].what})"


@dataclass(frozen=True)
class Conformance:
    """What a run of the kit found.

    Args:
        parity: over all golden cases; `None` where the bundle holds none.
        laws: one for each law, checked or not demanded.
        failures: everything that differs by more than the tolerance, golden cases first.
        tolerance: of the manifest.
    """

    parity: Parity | None
    laws: tuple[LawResult, ...]
    failures: tuple[Failure, ...]
    tolerance: float

    def problems(self, where: str) -> list[Problem]:
        """Say what is wrong: golden cases in one problem, laws in another."""
        cases = [str(failure) for failure in self.failures if failure.law is None]
        broken = [str(failure) for failure in self.failures if failure.law is not None]
        found = []
        if cases:
            what = f"golden cases differ by more than {self.tolerance:g} of the largest output: {', '.join(cases)}"
            found.append(Problem(where, what, MEND))
        if broken:
            what = f"laws that the model obeys in PyTorch are broken: {', '.join(broken)}"
            found.append(Problem(where, what, MEND))
        return found


def run_kit(bundle: Bundle, runner: Runner) -> Conformance:
    """Run every golden case and every law on what was loaded.

    Raises:
        UsageError: the bundle asks for a law that this version does not know.
    """
    cases, laws = bundle.golden(), bundle.laws()
    _check_known(bundle, laws.checks, cases)
    tolerance = bundle.manifest.tolerance
    kept: dict[str, Outputs] = {check.case: {} for check in laws.checks}
    failures: list[Failure] = []
    total = EXACT
    for case in cases:
        answer = _run(runner, case.feeds())
        outputs = {} if isinstance(answer, str) else answer
        if case.name in kept:
            kept[case.name] = outputs
        parity = compare_outputs(case.expected, outputs, case.rows)
        total = total.merge(parity)
        if not parity.max_rel_error <= tolerance:
            why = answer if isinstance(answer, str) else None
            failures.append(Failure(case.name, None, parity.max_rel_error, why))
    found = {law: LawResult(law=law, exempt=why) for law, why in laws.exempt.items()}
    by_name = {case.name: case for case in cases}
    for check in laws.checks:
        error, count, why = _broken_by(check, by_name[check.case], bundle.manifest, kept[check.case], runner)
        if not error <= tolerance:
            failures.append(Failure(check.case, check.law, error, why))
        found[check.law] = _with(found.get(check.law, LawResult(law=check.law)), count, error)
    return Conformance(total if cases else None, tuple(found.values()), tuple(failures), tolerance)


def _run(runner: Runner, feeds: Mapping[str, NDArray[Any]]) -> Outputs | str:
    """Return the answers, or why the engine gave up."""
    try:
        return runner(feeds)
    except UnsupportedError as error:
        return error.problems[0].what


def _broken_by(
    check: LawCheck, case: GoldenCase, manifest: Manifest, base: Outputs, runner: Runner
) -> tuple[float, int, str | None]:
    """Return the largest error of a law on a case, how many requests were run, and why the engine gave up, if so."""
    largest, count = 0.0, 0
    for changed in derive(check, case, manifest.inputs, str(manifest.outputs[0].shape[0])):
        answer = _run(runner, changed.feeds)
        count += 1
        if isinstance(answer, str):
            return np.inf, count, answer
        wanted = {name: _picked(array, changed.base) for name, array in base.items()}
        found = compare_outputs(wanted, answer, changed.rows)
        largest = max(largest, found.max_rel_error)
    return (largest if base else np.inf), count, None


def _picked(array: NDArray[Any], rows: NDArray[Any] | None) -> NDArray[Any]:
    """Take rows of an answer that may have too few of them."""
    return array if rows is None else array[rows[rows < len(array)]]


def _with(known: LawResult, count: int, error: float) -> LawResult:
    """Add requests to a result; an error that is infinite has no place in a report, and fails the bundle anyway."""
    largest = max(error, known.max_rel_error or 0.0)
    update = {"requests": known.requests + count, "max_rel_error": largest if np.isfinite(largest) else None}
    return known.model_copy(update=update)


def _check_known(bundle: Bundle, checks: Sequence[LawCheck], cases: Sequence[GoldenCase]) -> None:
    names = {case.name for case in cases}
    for check in checks:
        if check.law not in LAWS:
            what = f"asks for the law '{check.law}', which this version does not know"
            raise UsageError.at(str(bundle.path), what, "Run: pip install --upgrade gnnexport")
        if check.case not in names:
            what = f"asks for a law on the golden case '{check.case}', which it does not hold"
            raise UsageError.at(str(bundle.path), what, "Make the bundle again")
