"""Choose and run the compressing passes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gnnexport import spec
from gnnexport.bundle.report_schema import Step
from gnnexport.bundle.writer import BundleWriter
from gnnexport.errors import UnsupportedError
from gnnexport.measure.budgets import Budget
from gnnexport.measure.intervals import Interval
from gnnexport.measure.timing import compare, ratio
from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.pipeline.emission import Emitter
from gnnexport.pipeline.proof import Form
from gnnexport.pipeline.steps import Stepped, run_pass
from gnnexport.program.program import Program
from gnnexport.registry import pass_classes
from gnnexport.runtime.runner import load_to_prove

TRIAL_S = 5.0
"""Seconds of timing for one trial of `auto`."""


@dataclass(frozen=True)
class Auto:
    """Try the compressing passes in turn and keep what pays.

    A pass is kept when the metric on validation nodes stays within the budget and the target got
    measurably faster, or the model's files smaller. Where the target cannot run, only their size is left to judge by.

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
        for ladder in _ladders():
            for item in ladder:
                if time.perf_counter() > self.deadline:
                    return _skipped(item, best, ["not tried: the time budget is spent"])
                best, kept = self._try(start, best, item)
                if kept:
                    break
        return best

    def _try(self, start: Program, best: Stepped, item: Pass) -> tuple[Stepped, bool]:
        name = str(spec.describe(item))
        reasons = [str(problem) for problem in item.check(best.program, self.ctx)]
        if self.ctx.trainer is None:
            reasons.append("not tried: without labels nothing tells what it would cost in accuracy")
        if reasons:
            return _skipped(item, best, reasons), False
        self.progress(f"trying {name}")
        try:
            after = run_pass(best, item, self.ctx)
        except UnsupportedError as error:  # a model that cannot be retrained is still exported
            return _skipped(item, best, [str(problem) for problem in error.problems]), False
        kept, reason = self._judge(start, best.program, after.program)
        step = after.steps[-1]
        step = step.model_copy(update={"kept": kept, "notes": (*step.notes, reason)})
        program = after.program if kept else best.program
        return Stepped(program, (*after.steps[:-1], step)), kept

    def _judge(self, start: Program, before: Program, after: Program) -> tuple[bool, str]:
        assert self.ctx.trainer is not None
        metric = self.ctx.trainer.task.metric
        drop = self.ctx.trainer.drop(start, after)
        if drop > self.budget.value:
            worse = f"{drop * 100:.2f} {self.budget.unit}"
            return False, f"dropped: validation {metric} became worse by {worse}, budget {self.budget}"
        with ExitStack() as stack:
            old, new = (stack.enter_context(scratch_form(self.emitter, program)) for program in (before, after))
            speedup = self._speedup(old, new)
            smaller = new.emission.size_bytes < old.emission.size_bytes
            sizes = f"{old.emission.size_bytes} to {new.emission.size_bytes} bytes"
            if isinstance(speedup, str):
                found = "kept: smaller" if smaller else "dropped: not smaller"
                return smaller, f"{found}: {sizes}; judged by size only, latency not measured: {speedup}"
            if speedup.low is not None and speedup.low > 1:
                return True, f"kept: {speedup.value:.2f} times faster"
            if smaller and (speedup.high is None or speedup.high >= 1):
                return True, f"kept: not measurably faster, but smaller: {sizes}"
            return False, f"dropped: neither measurably faster nor smaller ({speedup.value:.2f} times, {sizes})"

    def _speedup(self, old: Form, new: Form) -> Interval | str:
        """Return how many times faster the new form is, or why the engine cannot run here."""
        data = self.emitter.source.request
        with load_to_prove(old.folder) as slow, load_to_prove(new.folder) as fast:
            if fast.engine_not_run is not None:
                return fast.engine_not_run
            feeds = {tensor.name: data.inputs[tensor.name].numpy() for tensor in slow.inputs}
            seconds = max(1.0, min(TRIAL_S, self.deadline - time.perf_counter()))
            timings = compare({"old": lambda: slow(feeds), "new": lambda: fast(feeds)}, budget_s=seconds)
        return ratio(timings["old"], timings["new"])


@contextmanager
def scratch_form(emitter: Emitter, program: Program) -> Iterator[Form]:
    """Write a Program into a folder that goes away, and yield it."""
    with (
        tempfile.TemporaryDirectory(prefix="gnnexport-") as folder,
        BundleWriter(Path(folder) / "trial.bundle") as writer,
    ):
        emission = emitter.emit(program, writer)
        yield Form(emission, writer.folder)


def run_given(start: Program, passes: Sequence[Pass], ctx: PassContext, progress: Callable[[str], None]) -> Stepped:
    """Run the passes the user named, in order; each is kept."""
    result = Stepped(start)
    for item in passes:
        progress(f"running {spec.describe(item)}")
        result = run_pass(result, item, ctx)
    return result


def _ladders() -> list[list[Pass]]:
    """Return for each compressing pass the settings to try, the strongest first."""
    classes = [cls for cls in pass_classes().values() if cls.stage is Stage.COMPRESS]
    return [[spec.build(cls, spec.parse(f"{cls.name}{{{options}}}")) for options in cls.ladder] for cls in classes]


def _skipped(item: Pass, best: Stepped, reasons: list[str]) -> Stepped:
    step = Step(name=str(spec.describe(item)), kept=False, notes=tuple(reasons))
    return replace(best, steps=(*best.steps, step))
