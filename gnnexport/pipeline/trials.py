"""Try a pass out: write the Program before and after it for the target, and time the two against each other."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from gnnexport import spec
from gnnexport.bundle.report_schema import Step
from gnnexport.bundle.writer import BundleWriter
from gnnexport.measure.intervals import Interval
from gnnexport.measure.timing import compare, ratio
from gnnexport.passes.contract import Pass, Stage
from gnnexport.pipeline.emission import Emitter
from gnnexport.pipeline.proof import Form
from gnnexport.pipeline.steps import Stepped
from gnnexport.program.program import Program
from gnnexport.registry import pass_classes
from gnnexport.runtime.runner import load_to_prove
from gnnexport.targets.contract import Target

TRIAL_S = 5.0
"""Seconds of timing for one trial."""

SPENT = "not tried: the time budget is spent"


@contextmanager
def scratch_form(emitter: Emitter, program: Program) -> Iterator[Form]:
    """Write a Program into a folder that goes away, and yield it."""
    with (
        tempfile.TemporaryDirectory(prefix="gnnexport-") as folder,
        BundleWriter(Path(folder) / "trial.bundle") as writer,
    ):
        emission = emitter.emit(program, writer)
        yield Form(emission, writer.folder)


class ScratchForms:
    """Forms of Programs that are tried out one after the other: each is written once, and goes away with this."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._written: list[tuple[Program, Form, ExitStack]] = []

    def form(self, program: Program) -> Form:
        """Return the form of a Program, as it was written before if it is still kept."""
        for other, form, _ in self._written:
            if other is program:
                return form
        stack = ExitStack()
        form = stack.enter_context(scratch_form(self._emitter, program))
        self._written.append((program, form, stack))
        return form

    def keep(self, program: Program) -> None:
        """Remove the forms of all other Programs."""
        for other, _, stack in self._written:
            if other is not program:
                stack.close()
        self._written = [item for item in self._written if item[0] is program]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for written in self._written:
            written[2].close()


def speedup(emitter: Emitter, old: Form, new: Form, deadline: float) -> Interval | str:
    """Return how many times faster the new form is, or why the engine cannot run here.

    Args:
        emitter: that wrote both.
        old: before the pass.
        new: after it.
        deadline: `time.perf_counter` value that timing respects, but for a second.
    """
    with load_to_prove(old.folder) as slow, load_to_prove(new.folder) as fast:
        if fast.engine_not_run is not None:
            return fast.engine_not_run
        feeds = emitter.source.feeds(tensor.name for tensor in slow.inputs)
        seconds = max(1.0, min(TRIAL_S, deadline - time.perf_counter()))
        timings = compare({"old": lambda: slow(feeds), "new": lambda: fast(feeds)}, budget_s=seconds)
    return ratio(timings["old"], timings["new"])


def ladders(stage: Stage, target: Target) -> list[list[Pass]]:
    """Return for each pass of a stage the settings to try, the strongest first; passes by their turn, then by name."""
    classes = sorted((cls for cls in pass_classes().values() if cls.stage is stage), key=lambda cls: cls.turn)
    return [
        [spec.build(cls, spec.parse(f"{cls.name}{{{options}}}")) for options in cls.settings(target.sparse_pattern)]
        for cls in classes
    ]


def skipped(item: Pass, best: Stepped, reasons: Sequence[str]) -> Stepped:
    """Record that a pass was not run, and why."""
    step = Step(name=str(spec.describe(item)), kept=False, notes=tuple(reasons))
    return replace(best, steps=(*best.steps, step))


def judged(before: Stepped, after: Stepped, kept: bool, *reasons: str) -> Stepped:
    """Record what became of a pass that was run, and go on with its Program or the one before."""
    *earlier, step = after.steps
    step = step.model_copy(update={"kept": kept, "notes": (*step.notes, *reasons)})
    return Stepped(after.program if kept else before.program, (*earlier, step))
