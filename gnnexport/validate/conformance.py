"""Run the conformance kit of a bundle: its golden cases, and the laws that its model obeys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.golden import Flips, GoldenCase, LawCheck
from gnnexport.bundle.reader import Bundle
from gnnexport.bundle.report_schema import LawResult
from gnnexport.conformance.laws import INT32_INDICES, LAWS, Derived, derive
from gnnexport.errors import GnnExportError, ParityError, Problem, UnsupportedError, UsageError
from gnnexport.runtime.runner import Runner
from gnnexport.validate.parity import EXACT, Parity, compare_outputs

MEND = "Make the bundle again on this machine; if it still differs, report it with manifest.json"

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Failure:
    """What the artefact gets wrong.

    Args:
        case: name of the golden case.
        law: that is broken there; `None` where the answer itself is not the expected one.
        error: relative to the largest output.
        gave_up: what the engine said instead of an answer; `None` where it answered.
        refused: what the runner said of a request that it has to take; `None` where it took it.
    """

    case: str
    law: str | None
    error: float
    gave_up: Problem | None = None
    refused: Problem | None = None

    def __str__(self) -> str:
        where = f"'{self.case}'" if self.law is None else f"{self.law} on '{self.case}'"
        if self.gave_up is not None:
            return f"{where}: {self.gave_up.what}"
        by = f"by {self.error:.2g}" if self.refused is None else f"as {self.refused.where} {self.refused.what}"
        return f"{where} {by}" + ("" if self.law is None else f" ({LAWS[self.law].what})")


@dataclass(frozen=True)
class Conformance:
    """What a run of the kit found.

    Args:
        parity: over all golden cases; `None` where the bundle holds none.
        laws: one for each law: checked, not demanded, or not checked.
        failures: everything that differs by more than the tolerance, golden cases first.
        tolerance: of the manifest.
    """

    parity: Parity | None
    laws: tuple[LawResult, ...]
    failures: tuple[Failure, ...]
    tolerance: float

    @property
    def wrong(self) -> tuple[Failure, ...]:
        """What was answered, and answered wrongly."""
        return tuple(failure for failure in self.failures if failure.gave_up is None)

    def error(self, where: str, blamed: str = "") -> GnnExportError:
        """Return the error of all failures: what cannot be run by its mend, golden cases and laws in a problem each.

        Args:
            where: names the bundle.
            blamed: what is known of the reason why numbers are wrong.
        """
        unable: dict[str, list[str]] = {}
        for failure in self.failures:
            if failure.gave_up is not None:
                unable.setdefault(failure.gave_up.mend, []).append(str(failure))
        cases = [str(failure) for failure in self.wrong if failure.law is None]
        broken = [str(failure) for failure in self.wrong if failure.law is not None]
        found = [
            Problem(where, f"the engine gave up on requests: {', '.join(told)}", mend) for mend, told in unable.items()
        ]
        if cases:
            what = f"golden cases differ by more than {self.tolerance:g} of the largest output: {', '.join(cases)}"
            found.append(Problem(where, what + blamed, MEND))
        if broken:
            what = f"laws that the model obeys in PyTorch are broken: {', '.join(broken)}"
            found.append(Problem(where, what + blamed, MEND))
        return UnsupportedError(*found) if unable else ParityError(*found)


def run_kit(bundle: Bundle, runner: Runner) -> Conformance:
    """Run every golden case and every law on what was loaded.

    Rows that mode `batched` keeps with 8 bits are left as they are here: a number that float32 puts on the other side
    of the border between two levels is no fault. What rounding them does shows in the accuracy.

    Raises:
        UsageError: the bundle asks for a law that this version does not know.
    """
    runner = runner.unrounded()
    cases, laws = bundle.golden(), bundle.laws()
    _check_known(bundle, laws.checks, cases)
    tolerance = bundle.manifest.tolerance
    asked = {check.case for check in laws.checks}
    kept: dict[str, Outputs] = {}
    failures: list[Failure] = []
    total = EXACT
    for case in cases:
        answer = _run(runner, case.feeds())
        if isinstance(answer, Problem):
            failures.append(Failure(case.name, None, np.inf, answer))
            continue
        if case.name in asked:
            kept[case.name] = answer
        parity = compare_outputs(case.expected, answer, case.rows, flips=case.flips)
        total = total.merge(parity)
        if not parity.max_rel_error <= tolerance:
            failures.append(Failure(case.name, None, parity.max_rel_error))
    found = {law: LawResult(law=law, exempt=why) for law, why in laws.exempt.items()}
    found |= {law: LawResult(law=law, unchecked=why) for law, why in laws.unchecked.items()}
    by_name = {case.name: case for case in cases if case.name in kept}
    for check in laws.checks:
        if check.case not in kept:
            continue  # the engine gave up on the case itself, which is told
        broken, count = _broken_by(check, by_name[check.case], bundle, kept[check.case], runner)
        if not broken.error <= tolerance:
            failures.append(broken)
        found[check.law] = _with(found.get(check.law, LawResult(law=check.law)), count, broken.error)
    return Conformance(total if cases else None, tuple(found.values()), tuple(failures), tolerance)


def law_error(changed: Derived, base: Outputs, answer: Outputs, flips: Flips | None = None) -> float:
    """Return how far answers are apart that a law says are the same; infinite where one of them lacks rows.

    The error is relative to the largest magnitude of the whole base answer, as that of a golden case is: a graph whose
    own answers lie near zero is not held to more digits than the others.

    Args:
        changed: says which rows have to agree.
        base: outputs by name for the original request, `[n, …]`.
        answer: those for the changed request.
        flips: rows that levels on a border explain.
    """
    wanted = {name: _picked(array, changed.base) for name, array in base.items()}
    return compare_outputs(wanted, answer, changed.rows, whole=base, flips=flips).max_rel_error


def _run(runner: Runner, feeds: Mapping[str, NDArray[Any]]) -> Outputs | Problem:
    """Return the answers, or what the engine said when it gave up."""
    try:
        return runner(feeds)
    except UnsupportedError as error:
        return error.problems[0]


def _broken_by(check: LawCheck, case: GoldenCase, bundle: Bundle, base: Outputs, runner: Runner) -> tuple[Failure, int]:
    """Return the largest error of a law on a case, whether or not that is a failure, and how many requests were run.

    Raises:
        UsageError: the law has nothing to change in the case; left out it would look passed.
    """
    largest, count = 0.0, 0
    for changed in _changed(check, case, bundle):
        count += 1
        try:
            answer = _run(runner, changed.feeds)
        except UsageError as error:
            if check.law != INT32_INDICES:
                raise
            return Failure(check.case, check.law, np.inf, refused=error.problems[0]), count
        if isinstance(answer, Problem):
            return Failure(check.case, check.law, np.inf, answer), count
        largest = max(largest, law_error(changed, base, answer, case.flips))
    if not count:
        raise _misfit(check, bundle, "nothing there can be changed")
    return Failure(check.case, check.law, largest), count


def _changed(check: LawCheck, case: GoldenCase, bundle: Bundle) -> Iterator[Derived]:
    """Make the requests that a law asks about.

    Raises:
        UsageError: what the bundle says of the case, such as the sizes of its graphs, does not fit its arrays.
    """
    outputs = bundle.manifest.outputs
    try:
        yield from derive(check, case, bundle.manifest.inputs, str(outputs[0].shape[0]))
    except (IndexError, KeyError, ValueError) as error:
        raise _misfit(check, bundle, str(error)) from error


def _misfit(check: LawCheck, bundle: Bundle, why: str) -> UsageError:
    what = f"asks for {check.law} on the golden case '{check.case}', which it does not fit ({why})"
    return UsageError.at(str(bundle.path), what, "Make the bundle again")


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
