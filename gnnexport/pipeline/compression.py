"""Choose and run the compressing passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gnnexport import spec
from gnnexport.errors import UnsupportedError
from gnnexport.measure.budgets import Budget
from gnnexport.measure.intervals import Interval
from gnnexport.passes.contract import Pass, PassContext, Stage, check_order
from gnnexport.pipeline.emission import Emitter
from gnnexport.pipeline.measured import Measured
from gnnexport.pipeline.steps import Stepped, run_pass
from gnnexport.pipeline.trials import SPENT, ScratchForms, judged, ladders, skipped, speedup
from gnnexport.program.program import Program


@dataclass(frozen=True)
class Auto:
    """Try the compressing passes in turn and keep what pays.

    A compressing pass is kept when the metric on validation nodes stays within the budget and the target got
    measurably faster, or the model's files smaller, and neither got worse. Where the target cannot run, only their size
    is left to judge by.
    Passes that change no output come last, and are kept when measured faster.

    Args:
        emitter: writes trials for the target.
        ctx: for the passes.
        budget: largest drop of the validation metric.
        deadline: `time.perf_counter` value after which nothing new is tried.
    """

    emitter: Emitter
    ctx: PassContext
    budget: Budget
    deadline: float
    progress: Callable[[str], None]

    def run(self, start: Program) -> Stepped:
        """Return the Program with the passes that were kept, and a step for each that was tried."""
        best = Stepped(start)
        with ScratchForms(self.emitter) as forms:
            for settings in ladders(Stage.COMPRESS, self.emitter.target):
                for item in settings:
                    if time.perf_counter() > self.deadline:
                        best = skipped(item, best, [SPENT])
                        break
                    best, kept = self._try(start, best, item, forms)
                    if kept:
                        break
        measured = Measured(self.emitter, self.ctx, self.deadline, self.progress)
        for settings in ladders(Stage.FINALISE, self.emitter.target):
            best = measured.first_faster(best, settings)
        return best

    def _try(self, start: Program, best: Stepped, item: Pass, forms: ScratchForms) -> tuple[Stepped, bool]:
        name = str(spec.describe(item))
        reasons = [str(problem) for problem in item.check(best.program, self.ctx)]
        if self.ctx.trainer is None:
            reasons.append("not tried: without labels nothing tells what it would cost in accuracy")
        if reasons:
            return skipped(item, best, reasons), False
        self.progress(f"trying {name}")
        try:
            after = run_pass(best, item, self.ctx, self.progress)
        except UnsupportedError as error:  # a model that cannot be retrained is still exported
            return skipped(item, best, [str(problem) for problem in error.problems]), False
        kept, reason = self._judge(start, best.program, after.program, forms)
        forms.keep(after.program if kept else best.program)
        return judged(best, after, kept, reason), kept

    def _judge(self, start: Program, before: Program, after: Program, forms: ScratchForms) -> tuple[bool, str]:
        assert self.ctx.trainer is not None
        metric = self.ctx.trainer.task.metric
        drop = self.ctx.trainer.drop(start, after)
        if drop > self.budget.value:
            worse = f"{drop * 100:.2f} {self.budget.unit}"
            return False, f"dropped: validation {metric} became worse by {worse}, budget {self.budget}"
        old, new = forms.form(before), forms.form(after)
        faster = speedup(self.emitter, old, new, self.deadline)
        return worth(faster, old.emission.size_bytes, new.emission.size_bytes)


def worth(faster: Interval | str, old_bytes: int, new_bytes: int) -> tuple[bool, str]:
    """Tell whether a setting is recommended, and why: never one that is measurably slower, or larger.

    Args:
        faster: how many times faster the model is with it, or why that was not measured.
        old_bytes: of the model's files without it.
        new_bytes: of those with it.
    """
    sizes = f"{old_bytes} to {new_bytes} bytes"
    if isinstance(faster, str):
        smaller = new_bytes < old_bytes
        found = "kept: smaller" if smaller else "dropped: not smaller"
        return smaller, f"{found}: {sizes}; judged by size only, latency not measured: {faster}"
    times = f"{faster.value:.2f} times"
    if faster.high is not None and faster.high < 1:
        return False, f"dropped: measurably slower ({times}, {sizes})"
    if new_bytes > old_bytes:
        return False, f"dropped: larger ({times}, {sizes})"
    if faster.low is not None and faster.low > 1:
        return True, f"kept: {times} faster"
    if new_bytes < old_bytes:
        return True, f"kept: not measurably faster, but smaller: {sizes}"
    return False, f"dropped: neither measurably faster nor smaller ({times}, {sizes})"


def run_given(start: Program, passes: Sequence[Pass], ctx: PassContext, progress: Callable[[str], None]) -> Stepped:
    """Run the passes the user named, in order, but for those that each target measures afterwards; each is kept.

    Raises:
        UnsupportedError: a pass refuses the Program. Those to be measured are asked before any work is done, and all
            whether they can stand behind the others.
    """
    problems = check_order(passes)
    problems += [problem for item in passes if item.measured for problem in item.check(start, ctx)]
    if problems:
        raise UnsupportedError(*problems)
    result = Stepped(start)
    for item in passes:
        if not item.measured:
            progress(f"running {spec.describe(item)}")
            result = run_pass(result, item, ctx, progress)
    return result
