"""Measure on a target what passes foretell: how the time of one inference divides, and how fast sparse products are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from gnnexport.errors import GnnExportError
from gnnexport.measure.amdahl import ProductShape, Shares
from gnnexport.measure.sparse_speed import Setting, Speeds, Timed
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.emission import Emitter
from gnnexport.program.program import Program

Known = dict[tuple[tuple[ProductShape, ...], Setting], Sequence[Timed]]

PRODUCTS_S = 10.0
"""Seconds that timing the products of a model may take in all, for one pass."""

SETTING_S = 2.0
"""Of these, for one setting."""


def foretelling(ctx: PassContext, emitters: Sequence[Emitter], progress: Callable[[str], None]) -> PassContext:
    """Return a context whose passes can foretell what they gain on a target, or on each of several.

    Args:
        ctx: for the passes.
        emitters: for the targets.
        progress: takes a line for the user.
    """
    if len(emitters) > 1:
        return replace(ctx, targets={item.target.name: foretelling(ctx, [item], progress) for item in emitters})
    (emitter,) = emitters
    known: Known = {}
    return replace(
        ctx,
        shares=shares_on(emitter, progress),
        speeds=lambda: speeds_on(emitter, progress, known),
        sparse_pattern=emitter.target.sparse_pattern,
        targets={},
    )


def shares_on(emitter: Emitter, progress: Callable[[str], None]) -> Callable[[Program], Shares | None]:
    """Return what measures the shares of a Program, each once; it gives `None` where the target cannot tell."""
    known: WeakKeyDictionary[Program, Shares | None] = WeakKeyDictionary()

    def shares(program: Program) -> Shares | None:
        if program not in known:
            known[program] = _measured(emitter, program, progress)
            if (found := known[program]) is not None:
                progress(str(found))
        return known[program]

    return shares


def speeds_on(
    emitter: Emitter, progress: Callable[[str], None], known: Known, clock: Callable[[], float] = time.perf_counter
) -> Speeds:  # fmt: skip
    """Return what times products with zeros until `PRODUCTS_S` are spent; from then on it gives what is known.

    Args:
        emitter: for the target.
        progress: takes a line for the user.
        known: what was timed, which is not timed again.
        clock: seconds, for tests.
    """
    deadline = clock() + PRODUCTS_S

    def speeds(products: Sequence[ProductShape], setting: Setting) -> Sequence[Timed]:
        left_s = deadline - clock()
        key = tuple(products), setting
        if key in known or left_s <= 0:
            return known.get(key, ())
        try:
            known[key] = emitter.time_products(products, setting, min(left_s, SETTING_S))
        except Exception as error:  # of an engine: nothing but a note hangs on it
            progress(f"what zeros do to products is not known: {str(error).splitlines()[0]}")
            return ()
        return known[key]

    return speeds


def _measured(emitter: Emitter, program: Program, progress: Callable[[str], None]) -> Shares | None:
    try:
        return emitter.shares(program)
    except GnnExportError:  # which emitting the model says in words, if it comes to that
        return None
    except Exception as error:  # of an engine that cannot be profiled: nothing but a note hangs on it
        progress(f"what can be gained at most is not known: {str(error).splitlines()[0]}")
        return None
