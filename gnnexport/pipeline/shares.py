"""Measure on a target how the time of one inference divides, for passes that say what they can gain at most."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from gnnexport.errors import GnnExportError
from gnnexport.measure.amdahl import Shares
from gnnexport.pipeline.emission import Emitter
from gnnexport.program.program import Program


def shares_on(emitter: Emitter, progress: Callable[[str], None]) -> Callable[[Program], Shares | None]:
    """Return what measures the shares of a Program, each once; it gives `None` where the target cannot tell.

    Args:
        emitter: for the target.
        progress: takes a line for the user.
    """
    known: WeakKeyDictionary[Program, Shares | None] = WeakKeyDictionary()

    def shares(program: Program) -> Shares | None:
        if program not in known:
            known[program] = _measured(emitter, program, progress)
            if (found := known[program]) is not None:
                progress(str(found))
        return known[program]

    return shares


def _measured(emitter: Emitter, program: Program, progress: Callable[[str], None]) -> Shares | None:
    try:
        return emitter.shares(program)
    except GnnExportError:  # which emitting the model says in words, if it comes to that
        return None
    except Exception as error:  # of an engine that cannot be profiled: nothing but a note hangs on it
        progress(f"what can be gained at most is not known: {str(error).splitlines()[0]}")
        return None
