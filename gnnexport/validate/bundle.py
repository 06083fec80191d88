"""Prove a bundle on this machine: its numbers, its accuracy, its latency."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gnnexport.bundle.evaluation import EvalData
from gnnexport.bundle.features import noise
from gnnexport.bundle.reader import Bundle, open_bundle
from gnnexport.bundle.report_schema import Drop, MetricValue, Report
from gnnexport.errors import DataError, UsageError
from gnnexport.measure.budgets import parse_budget
from gnnexport.measure.timing import Timing, compare
from gnnexport.runtime.peak import peak_memory_bytes
from gnnexport.runtime.runner import Runner, load, load_to_prove
from gnnexport.validate.accuracy import measure_accuracy
from gnnexport.validate.conformance import Conformance, run_kit
from gnnexport.validate.data import read_test_data
from gnnexport.validate.parity import Parity
from gnnexport.validate.renewal import Measured, renew

TIME_BUDGET_S = 10.0
"""Seconds of timing, unless told."""


@dataclass(frozen=True)
class Validation:
    """What was measured here, and the bundle's report brought up to date; its verdict is still the old one.

    Args:
        timing: `None` where the engine of the bundle cannot run.
    """

    bundle: Bundle
    report: Report
    parity: Parity | None
    metric: MetricValue | None
    drop: Drop | None
    timing: Timing | None
    notes: tuple[str, ...]

    @property
    def nodes_per_second(self) -> float | None:
        """Nodes of the graph over the median latency."""
        return self.report.result.nodes_per_second


def _silent(line: str) -> None:
    del line


def validate_bundle(
    path: Path | str,
    *,
    data: Path | None = None,
    time_budget_s: float = TIME_BUDGET_S,
    progress: Callable[[str], None] = _silent,
) -> Validation:
    """Run the bundle's own conformance kit, then measure accuracy where there is data, then latency and memory.

    Where the engine cannot run, parity and accuracy are those of the model it was built from, and nothing is timed.

    Args:
        path: the bundle.
        data: `.npz` with features and labels, when the bundle holds none or others are wanted.
        time_budget_s: seconds of timing.
        progress: takes a line for each step.

    Raises:
        ParityError: an output differs by more than the tolerance of the manifest, or a law is broken.
        UnsupportedError: the engine gives up on a request.
        UsageError: not a bundle, damaged, or data that does not fit.
    """
    progress(f"verifying {path}")
    bundle = open_bundle(path)
    notes: list[str] = []
    evaluation = _evaluation(bundle, data, notes)
    with _loaded(load_to_prove, bundle, notes, progress) as runner:
        notes += stand_in_note(runner.name, runner.engine_not_run)
        progress("checking the numbers")
        kit = check_conformance(bundle, runner, notes)
        metric, drop = (None, None)
        if evaluation is not None:
            progress(f"measuring {evaluation.metric}")
            metric, drop = measure_accuracy(runner, evaluation, budget=_budget(bundle))
        measured = Measured(
            runner.name, None, kit.parity, metric, drop, engine_not_run=runner.engine_not_run, laws=kit.laws
        )
        if runner.engine_not_run is not None:
            return _outcome(bundle, measured, notes)
        progress(f"timing for about {time_budget_s:g} s")
        measured = time_runner(bundle, runner, time_budget_s, measured)
    progress("measuring memory")
    return _outcome(bundle, replace(measured, peak_memory_bytes=peak_memory_bytes(bundle.path)), notes)


def bench_bundle(
    path: Path | str, *, time_budget_s: float = TIME_BUDGET_S, progress: Callable[[str], None] = _silent
) -> Validation:
    """Measure latency and throughput only; the report asks for nothing else, so accuracy is not judged.

    Args:
        path: the bundle.
        time_budget_s: seconds of timing.
        progress: takes a line for each step.

    Raises:
        UsageError: not a bundle, or damaged.
        NotRunnableError: this machine lacks what the engine runs on.
    """
    progress(f"verifying {path}")
    bundle = open_bundle(path)
    notes: list[str] = []
    with _loaded(_load_as_proven, bundle, notes, progress) as runner:
        progress(f"timing for about {time_budget_s:g} s")
        measured = time_runner(bundle, runner, time_budget_s, Measured(runner.name, None))
    found = _outcome(bundle, measured, notes)
    budgets = found.report.budgets.model_copy(update={"max_drop": None, "max_drop_set": False})
    return replace(found, report=found.report.model_copy(update={"budgets": budgets}))


def check_conformance(bundle: Bundle, runner: Runner, notes: list[str]) -> Conformance:
    """Run every golden case and every law; a note where there are none.

    Raises:
        ParityError: an output differs by more than the tolerance; names every case and every law.
        UnsupportedError: the engine gives up on a request.
    """
    found = run_kit(bundle, runner)
    if found.parity is None:
        notes.append("parity not checked: the bundle holds no golden cases")
    if found.failures:
        raise found.error(str(bundle.path))
    return found


def time_runner(bundle: Bundle, runner: Runner, time_budget_s: float, measured: Measured) -> Measured:
    """Time one inference on the bundle's first golden case, or on noise of the right shape.

    Raises:
        UsageError: there is no golden case, and noise cannot be a graph.
    """
    cases = bundle.golden()
    if not cases and any(isinstance(size, str) for tensor in runner.inputs for size in tensor.shape):
        what = "holds no golden case, so there is no request to time"
        raise UsageError.at(str(bundle.path), what, "Make the bundle again")
    feeds = cases[0].feeds() if cases else {tensor.name: noise(tensor.shape) for tensor in runner.inputs}
    timing = compare({"result": lambda: runner(feeds)}, budget_s=time_budget_s)["result"]
    return replace(measured, timing=timing, request=runner.request_sizes(feeds))


def _load_as_proven(bundle: Bundle) -> Runner:
    """Load a bundle; in mode `batched` no rows are kept between requests, so that the same one costs the same again."""
    return load(bundle, store_bytes=0 if bundle.manifest.mode == "batched" else None)


def stand_in_note(engine: str, engine_not_run: str | None) -> list[str]:
    """Say what the numbers were measured on, where it is not the engine; nothing where it is."""
    if engine_not_run is None:
        return []
    return [f"accuracy and parity were measured on model.onnx in {engine}, not on the engine: {engine_not_run}"]


@contextmanager
def _loaded(
    open_runner: Callable[[Bundle], Runner], bundle: Bundle, notes: list[str], progress: Callable[[str], None]
) -> Iterator[Runner]:
    """Load a bundle; what the runtime warns of becomes a note."""
    progress(f"loading {bundle.manifest.target.model_file}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runner = open_runner(bundle)
    notes += [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    with runner:
        yield runner


def _outcome(bundle: Bundle, measured: Measured, notes: list[str]) -> Validation:
    return Validation(
        bundle=bundle,
        report=renew(bundle, measured, notes),
        parity=measured.parity,
        metric=measured.metric,
        drop=measured.drop,
        timing=measured.timing,
        notes=tuple(notes),
    )


def _evaluation(bundle: Bundle, data: Path | None, notes: list[str]) -> EvalData | None:
    stored = bundle.evaluation()
    if stored is None:
        if data is not None:
            what = "the bundle does not say which rows are those of the test, so data cannot be judged"
            raise DataError.at(str(bundle.path), what, "Make the bundle again with --data")
        notes.append("accuracy not measured here: the bundle was made without data")
        return None
    if data is not None and bundle.manifest.mode == "batched":
        what = "the bundle brings its graph and features itself, and labels with them"
        raise DataError.at("--data", what, "Leave --data out")
    if data is not None:
        return read_test_data(data, stored, bundle.manifest.graph)
    if stored.y is None:
        notes.append("accuracy not measured here: the bundle holds no test data; give it with --data X.npz")
        return None
    return stored


def _budget(bundle: Bundle) -> float:
    report = bundle.report()
    text = None if report is None else report.budgets.max_drop
    return 0.0 if text is None else parse_budget(text).value
