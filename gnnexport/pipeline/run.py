"""The whole way: capture, simplify, compress, lower, prove, and put the bundle in its place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from gnnexport import spec
from gnnexport.bundle.processor import MOST_THREADS, usable_cores
from gnnexport.bundle.report_files import write_reports
from gnnexport.bundle.report_schema import Report, Step
from gnnexport.bundle.stages import STORE_BYTES
from gnnexport.bundle.writer import BundleWriter, check_destination
from gnnexport.errors import UnsupportedError, UsageError
from gnnexport.frontends.baseline import Baseline, best_pytorch
from gnnexport.frontends.neighbour_baseline import best_on_targets
from gnnexport.measure.budgets import default_budget, parse_budget
from gnnexport.passes.contract import PassContext, check_order
from gnnexport.pipeline.compression import Auto, run_given
from gnnexport.pipeline.emission import Emitter
from gnnexport.pipeline.latency import latency_on
from gnnexport.pipeline.measured import Measured
from gnnexport.pipeline.proof import Form, Prover
from gnnexport.pipeline.request import Request
from gnnexport.pipeline.shares import foretelling
from gnnexport.pipeline.source import Source, capture_source
from gnnexport.pipeline.stage_emission import refusals
from gnnexport.pipeline.steps import CANONICAL, Stepped, finalise, run_passes
from gnnexport.pipeline.trials import scratch_form
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.program.stages import hops_of
from gnnexport.targets.contract import Target
from gnnexport.training.trainer import Trainer

TIMING_S = 10.0
LOWERING_S = 20.0
AUTO_S = 600.0

DRY = "dry run: nothing was lowered, measured or written"

Judge = Callable[[Report], tuple[Report, str]]
"""Puts a verdict into a report and writes it as text."""


@dataclass(frozen=True)
class Product:
    """What a run made: reports and bundles by target."""

    reports: dict[str, Report] = field(default_factory=dict)
    bundles: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Simplified:
    """A captured Program before and after the order of propagation was chosen."""

    original: Program
    program: Program
    steps: tuple[Step, ...]


def run(request: Request, source: Source, judge: Judge) -> Product:
    """Carry out a request; the bundles of all targets are put in their places once the last is proven.

    Raises:
        GnnExportError: nothing is left behind.
    """
    deadline = time.perf_counter() + (AUTO_S if request.time_budget_s is None else request.time_budget_s)
    check_destinations(request)
    if request.store_bytes is not None and source.mode != "batched":
        what = f"keeps rows between requests, which mode '{source.mode}' does not"
        raise UsageError.at("--store", what, "Leave it out, or use --mode batched")
    asked = [threads_of(target) for target in request.targets]
    request.progress(f"capturing {source.class_name}")
    simplified = simplify(source)
    ctx = _pass_context(request, source, deadline)
    pairs = zip(request.targets, asked, strict=True)
    emitters = [_emitter(request, source, target, threads) for target, threads in pairs]
    if any(getattr(item, "latency", None) is not None for item in request.passes or ()):
        ctx = replace(ctx, latency=latency_on(emitters[0], simplified.program))
    ctx = foretelling(ctx, emitters, request.progress)
    if request.dry_run:
        return _dry(request, source, simplified, ctx)
    reports: dict[str, Report] = {}
    writers: dict[str, BundleWriter] = {}
    given: Stepped | None = None
    if request.passes is not None:
        given = run_given(simplified.program, request.passes, ctx, request.progress)
    with ExitStack() as stack:
        for emitter in emitters:
            target, threads = emitter.target, emitter.threads
            writer = stack.enter_context(BundleWriter(request.folder(target), force=request.force))
            with _torch_threads(threads):
                compressed = _choose(request, simplified, given, ctx, emitter, deadline)
                baseline = baseline_of(source, simplified.original)
                timing_s = _timing_s(request)
                prover = Prover(source, baseline, simplified.original, request.budgets, threads, timing_s, emitter)
                reports[target.name] = _produce(request, emitter, prover, simplified, compressed, judge, writer)
            writers[target.name] = writer
        return Product(reports, {name: writer.commit() for name, writer in writers.items()})


def _emitter(request: Request, source: Source, target: Target, threads: int) -> Emitter:
    store_bytes = STORE_BYTES if request.store_bytes is None else request.store_bytes
    return Emitter(
        source, target, threads, _lowering_s(request), request.seed, request.embed_bytes, request.decisions,
        store_bytes=store_bytes,
    )  # fmt: skip


def baseline_of(source: Source, program: Program) -> Baseline:
    """Return the best way found to answer the typical request in PyTorch."""
    mode: Mode = "graphs" if source.mode == "graphs" else "full"
    whole = best_pytorch(source.model, source.request, source.inputs, source.request_run, mode)
    if source.targets is None:
        return whole
    depth = hops_of(program)
    return best_on_targets(source.model, source.data, source.inputs, source.targets, depth, whole)


def check_destinations(request: Request) -> None:
    """Refuse places that hold something else, before minutes of work.

    Raises:
        UsageError: a folder with other files in it, or a bundle without `force`.
    """
    for target in request.targets:
        check_destination(request.folder(target), force=request.force)
    if len(request.targets) == 1 or not request.output.is_dir():
        return
    expected = {target.name for target in request.targets}
    others = sorted(path.name for path in request.output.iterdir() if path.name not in expected)
    if others:
        raise UsageError.at(
            str(request.output),
            f"holds '{others[0]}', but is to hold one folder for each target",
            "Choose another folder with -o",
        )


def simplify(source: Source) -> Simplified:
    """Capture and run the canonical passes."""
    ctx = PassContext(data=source.data.hide("test"), mode=source.mode)
    captured = capture_source(source)
    ordered = len(CANONICAL) - 1
    split = run_passes(captured, CANONICAL[:ordered], ctx)
    done = run_passes(split.program, CANONICAL[ordered:], ctx)
    return Simplified(split.program, done.program, (*split.steps, *done.steps))


def threads_of(target: Target) -> int:
    """Return the thread count a target asks for, else one per core this process may use.

    Raises:
        UsageError: more threads than any machine has use for.
    """
    asked = getattr(target, "threads", None)
    if asked is not None and asked > MOST_THREADS:
        raise UsageError.at(f"target {target.name}", f"threads={asked} are too many", f"Give at most {MOST_THREADS}")
    return usable_cores() if asked is None else int(asked)


def _pass_context(request: Request, source: Source, deadline: float) -> PassContext:
    """Return what passes get; graphs that are made up are no data, and nothing is to be fitted to them."""
    data = source.data.hide("test")
    limit = None if request.time_budget_s is None else deadline
    memory = request.memory_bytes
    trainer = Trainer(data, source.task, request.progress, limit, memory) if source.labelled else None
    known = None if source.generated else data
    return PassContext(data=known, trainer=trainer, seed=request.seed, mode=source.mode, memory_bytes=memory)


def _choose(
    request: Request, simplified: Simplified, given: Stepped | None, ctx: PassContext, emitter: Emitter, deadline: float
) -> Stepped:  # fmt: skip
    """Let the pipeline choose passes for one target, or measure there what is left of those that were given."""
    if given is None:
        budget = parse_budget(request.budgets.max_drop or default_budget(emitter.source.task.metric))
        ctx = foretelling(ctx, [emitter], request.progress)
        return Auto(emitter, ctx, budget, deadline, request.progress).run(simplified.program)
    limit = math.inf if request.time_budget_s is None else deadline
    measured = [item for item in request.passes or () if item.measured]
    return Measured(emitter, ctx, limit, request.progress).named(given, measured)


def _produce(
    request: Request, emitter: Emitter, prover: Prover, simplified: Simplified, compressed: Stepped, judge: Judge,
    writer: BundleWriter,
) -> Report:  # fmt: skip
    """Write and prove the bundle of one target; it is complete but not yet in its place."""
    kept = tuple(step.name for step in compressed.steps if step.kept)
    target = emitter.target.name
    request.progress(f"lowering to {target}")
    emission = replace(emitter, applied=kept).emit(compressed.program, writer)
    result = Form(emission, writer.folder)
    request.progress(f"measuring on {target}")
    if kept:
        with scratch_form(emitter, simplified.program) as exported:
            report = prover.prove(exported, result)
    else:
        report = prover.prove(result, result)
    steps = (*simplified.steps, *compressed.steps, *emission.steps)
    report, text = judge(report.model_copy(update={"target": target, "steps": steps}))
    write_reports(writer.folder, report, text)
    return report


def _dry(request: Request, source: Source, simplified: Simplified, ctx: PassContext) -> Product:
    """Check passes and targets and say what would run."""
    problems = check_order(request.passes or ())
    problems += [problem for item in request.passes or () for problem in item.check(simplified.program, ctx)]
    final = finalise(simplified.program, source.data, source.mode).program
    problems += [problem for target in request.targets for problem in refusals(target, final, source.mode)]
    if problems:
        raise UnsupportedError(*problems)
    chosen = "auto" if request.passes is None else "; ".join(str(spec.describe(item)) for item in request.passes)
    foretold = {
        target.name: [
            f"{item.name}: {line}"
            for item in request.passes or ()
            for line in item.foretell(simplified.program, ctx.targets.get(target.name, ctx))
        ]
        for target in request.targets
    }
    reports = {
        target.name: Report(
            target=target.name,
            model={"name": source.path.name, "class": source.class_name},
            budgets=request.budgets,
            steps=simplified.steps,
            reasons=("dry run: nothing was trained or written" if foretold[target.name] else DRY,),
            notes=(
                *source.notes,
                *foretold[target.name],
                f"would run the compressing passes: {chosen or 'none'}",
                f"would lower to {spec.describe(target)} and write {request.folder(target)}",
            ),
        )
        for target in request.targets
    }
    return Product(reports)


def _timing_s(request: Request) -> float:
    return TIMING_S if request.time_budget_s is None else min(TIMING_S, max(1.0, request.time_budget_s / 4))


def _lowering_s(request: Request) -> float:
    return LOWERING_S if request.time_budget_s is None else min(LOWERING_S, max(1.0, request.time_budget_s / 4))


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use as many threads as the target, so that both are compared on equal terms."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
