"""The error tree. Every error carries the exit code of the command line and says how to mend it.

    GnnExportError            1   a bug: the message says what to report
    ├── UsageError            2   wrong option, file or data
    │   ├── SpecError         2   a pass, target or option name or value that does not exist
    │   ├── UnsafeFileError   2   a file that asks to run code, or names something not on the safe list
    │   ├── DataError         2   data that does not fit the model or the task
    │   └── MissingExtraError 2   a library that this installation lacks
    ├── UnsupportedError      6   something the frontend or the target cannot do
    │   └── NotRunnableError  6   an engine that this machine cannot run
    ├── ParityError           5   the artefact does not compute what the model computes
    ├── KernelError           1   arguments that our own kernels refuse: a bug of who calls them
    └── PassFailure           1   a pass broke its contract: a bug in the pass

Exit codes 0, 3, 4 and 7 are verdicts of a finished run, not errors: see `gnnexport.report`.
130 is an interrupt by the user, 143 a request of the system to end, as at the time limit of a CI job.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_ACCURACY = 3
EXIT_LATENCY = 4
EXIT_PARITY = 5
EXIT_UNSUPPORTED = 6
EXIT_INCONCLUSIVE = 7
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


@dataclass(frozen=True)
class Problem:
    """Say where something is wrong, what it is, and how to mend it."""

    where: str
    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}." + (f" {self.mend}." if self.mend else "")


class GnnExportError(Exception):
    """Carry one or more problems and the exit code they lead to."""

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems: Sequence[Problem] = problems

    @classmethod
    def at(cls, where: str, what: str, mend: str = "") -> Self:
        """Build an error of this class from a single problem."""
        return cls(Problem(where, what.rstrip("."), mend.rstrip(".")))


class UsageError(GnnExportError):
    """A wrong option, file or data."""

    exit_code = EXIT_USAGE


class SpecError(UsageError):
    """A pass, target or option that does not exist, or a value it cannot take."""


class UnsafeFileError(UsageError):
    """A file that asks to run code, or names something that is not on the safe list."""


class DataError(UsageError):
    """Data that does not fit the model or the task."""


class MissingExtraError(UsageError):
    """A library that this installation lacks; the mend is the exact pip line."""


class UnsupportedError(GnnExportError):
    """Something the frontend or the target cannot do."""

    exit_code = EXIT_UNSUPPORTED


class NotRunnableError(UnsupportedError):
    """An engine that this machine cannot run, such as one without its device; elsewhere the bundle may run."""


class ParityError(GnnExportError):
    """The artefact does not compute what the model computes."""

    exit_code = EXIT_PARITY


class KernelError(GnnExportError, ValueError):
    """Our own kernels refused their arguments; a `ValueError` too, for who tries whether a graph runs."""


class PassFailure(GnnExportError):
    """A pass broke its contract: its result is ill-formed, or differs where it may not."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Name the closest known name and list them all, as the mend of an unknown-name problem."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"Did you mean '{close[0]}'? " if close else ""
    return f"{guess}Known: {', '.join(names) or 'none'}"
