"""Keep a pass that changes no output only where the target runs measurably faster with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from gnnexport import spec
from gnnexport.measure.intervals import Interval
from gnnexport.passes.contract import Pass, PassContext
from gnnexport.pipeline.emission import Emitter
from gnnexport.pipeline.proof import Form
from gnnexport.pipeline.steps import Stepped, run_pass
from gnnexport.pipeline.trials import SPENT, judged, scratch_form, skipped, speedup


@dataclass(frozen=True)
class Measured:
    """Run passes that are kept only if measured faster, and measure them.

    Args:
        emitter: writes trials for the target.
        ctx: for the passes.
        deadline: `time.perf_counter` value after which nothing new is tried.
        progress: takes one line for the user.
    """

    emitter: Emitter
    ctx: PassContext
    deadline: float
    progress: Callable[[str], None]

    def named(self, best: Stepped, passes: Sequence[Pass]) -> Stepped:
        """Return the Program with those of the passes that the user named that pay.

        Raises:
            UnsupportedError: a pass refuses this Program.
        """
        for item in passes:
            best = self._first_faster(best, [item])
        return best

    def first_faster(self, best: Stepped, settings: Sequence[Pass]) -> Stepped:
        """Return the Program with the first of several settings of a pass that pays, if any of them is to be had."""
        accepted = []
        for item in settings:
            reasons = [str(problem) for problem in item.check(best.program, self.ctx)]
            if reasons:
                best = skipped(item, best, reasons)
            else:
                accepted.append(item)
        return self._first_faster(best, accepted)

    def _first_faster(self, best: Stepped, settings: Sequence[Pass]) -> Stepped:
        with ExitStack() as stack:
            old: Form | None = None
            for item in settings:
                if time.perf_counter() > self.deadline:
                    return skipped(item, best, [SPENT])
                self.progress(f"trying {spec.describe(item)}")
                after = run_pass(best, item, self.ctx)
                if after.program is best.program:
                    best = judged(best, after, False)
                    continue
                if self.emitter.decisions is not None:
                    kept, reason = replayed(self.emitter.decisions, item)
                else:
                    old = old or stack.enter_context(scratch_form(self.emitter, best.program))
                    with scratch_form(self.emitter, after.program) as new:
                        kept, reason = verdict(speedup(self.emitter, old, new, self.deadline))
                best = judged(best, after, kept, reason)
                if kept:
                    break
        return best


def replayed(decisions: Mapping[str, Any], item: Pass) -> tuple[bool, str]:
    """Tell whether an earlier run kept a pass, by its `decisions.json`; nothing is timed."""
    kept = str(spec.describe(item)) in decisions.get("passes", ())
    return kept, "kept, as in the decisions given" if kept else "dropped: not among the passes of the decisions given"


def verdict(found: Interval | str) -> tuple[bool, str]:
    """Tell whether a Program so many times faster is kept, and why."""
    if isinstance(found, str):
        return False, f"dropped: latency not measured: {found}"
    if found.low is None or found.high is None:
        return False, f"dropped: too few runs to tell whether it is faster ({found.value:.2f} times)"
    times = f"{found.value:.2f} times, {found.low:.2f}-{found.high:.2f}"
    return (True, f"kept: faster ({times})") if found.low > 1 else (False, f"dropped: not measurably faster ({times})")
