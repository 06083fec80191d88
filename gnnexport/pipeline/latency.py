"""Measure one inference of a Program on a target, for passes that work towards a latency."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gnnexport.bundle.writer import BundleWriter
from gnnexport.errors import GnnExportError
from gnnexport.pipeline.emission import Emitter
from gnnexport.pipeline.steps import finalise
from gnnexport.program.program import Program
from gnnexport.runtime.runner import load_to_prove

LOWERING_S = 2.0
"""Seconds that choosing lowerings may take for each measurement."""

TIMED_S = 1.0
FEWEST, MOST = 3, 50
"""Runs of one measurement."""


def latency_on(emitter: Emitter, program: Program) -> Callable[[Program], float] | None:
    """Return what measures the median latency of a Program, in milliseconds; `None` where the target cannot run.

    Args:
        emitter: for the target.
        program: to try whether it runs.
    """
    quick = replace(emitter, lowering_budget_s=LOWERING_S, decisions=None)
    try:
        _measure(quick, program)
    except GnnExportError:
        return None
    return lambda asked: _measure(quick, asked)


def _measure(emitter: Emitter, program: Program) -> float:
    final = finalise(program, emitter.source.data, emitter.source.mode).program
    with (
        tempfile.TemporaryDirectory(prefix="gnnexport-") as folder,
        BundleWriter(Path(folder) / "timed.bundle") as writer,
    ):
        emitter.write_model(final, writer, {})
        with load_to_prove(writer.folder, threads=emitter.threads) as runner:
            if runner.engine_not_run is not None:
                raise GnnExportError.at("latency", runner.engine_not_run, "Measure where the target runs")
            feeds = emitter.source.feeds(tensor.name for tensor in runner.inputs)
            runner(feeds)
            seconds: list[float] = []
            while len(seconds) < FEWEST or (sum(seconds) < TIMED_S and len(seconds) < MOST):
                start = time.perf_counter()
                runner(feeds)
                seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)
