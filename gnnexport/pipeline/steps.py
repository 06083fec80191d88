"""Run passes: check, run, verify, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from gnnexport import spec
from gnnexport.bundle.report_schema import Step
from gnnexport.errors import PassFailure, Problem, UnsupportedError
from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.passes.fold_norms import FoldNorms
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.passes.raise_messages import RaiseMessages
from gnnexport.passes.remove_redundant import RemoveRedundant
from gnnexport.passes.split_structure import SplitStructure
from gnnexport.program.cost import measure_cost
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.program.verify import TOLERANCE, largest_error, verify

CANONICAL: tuple[Pass, ...] = (RemoveRedundant(), RaiseMessages(), SplitStructure(), OrderPropagation())
"""Before compression, in this order."""

FINAL: tuple[Pass, ...] = (OrderPropagation(), FoldNorms(), RemoveRedundant())
"""After compression, in this order; widths have changed, so the order of propagation is chosen again."""


@dataclass(frozen=True)
class Stepped:
    """A Program and the steps that led to it."""

    program: Program
    steps: tuple[Step, ...] = field(default=())


def run_passes(program: Program, passes: Iterable[Pass], ctx: PassContext) -> Stepped:
    """Run passes one after the other."""
    result = Stepped(program)
    for item in passes:
        result = run_pass(result, item, ctx)
    return result


def run_pass(
    before: Stepped, item: Pass, ctx: PassContext, progress: Callable[[str], None] | None = None
) -> Stepped:  # fmt: skip
    """Run one pass and hold it to its contract.

    Args:
        before: the Program, with the steps that led to it.
        item: the pass.
        ctx: for it.
        progress: takes each line that the pass notes at once, such as what it can gain at most before it trains.

    Raises:
        UnsupportedError: the pass refuses this Program.
        PassFailure: the result is ill-formed, or a pass that may not change outputs did.
    """
    problems = item.check(before.program, ctx)
    if problems:
        raise UnsupportedError(*problems)
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        if progress is not None:
            progress(f"{item.name}: {line}")

    start = time.perf_counter()
    program = item.run(before.program, replace(ctx, note=note))
    seconds = time.perf_counter() - start
    _hold_to_contract(item, before.program, program)
    return Stepped(program, (*before.steps, _step(item, program, ctx, seconds, notes)))


def _hold_to_contract(item: Pass, before: Program, after: Program) -> None:
    problems = verify(after)
    if not problems and item.stage is not Stage.COMPRESS:
        error = largest_error(before, after)
        if error > TOLERANCE:
            problems = [Problem(item.name, f"changed the output by {error:.2g} of the largest", "")]
    if problems:
        mend = "This is a bug in the pass: report it with the model"
        raise PassFailure(*(Problem(f"{item.name}: {each.where}", each.what, mend) for each in problems))


def _step(item: Pass, program: Program, ctx: PassContext, seconds: float, notes: Sequence[str]) -> Step:
    name = str(spec.describe(item))
    if item.stage is not Stage.COMPRESS or ctx.data is None:
        return Step(name=name, kept=True, seconds=seconds, notes=tuple(notes))
    cost = measure_cost(program, ctx.data.inputs)
    metric = None if ctx.trainer is None else ctx.trainer.evaluate(program, "val")
    return Step(
        name=name, kept=True, seconds=seconds, metric=metric, parameters=cost.parameters, macs=cost.macs(),
        bytes=cost.parameter_bytes, notes=tuple(notes),
    )  # fmt: skip


def finalise(program: Program, data: GraphData, mode: Mode = "full") -> Stepped:
    """Return the Program as it is lowered for a mode, with the steps that led there."""
    return run_passes(program, FINAL, PassContext(data=data, mode=mode))
