"""Measure original, uncompressed export and result side by side, and write it all into a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnnexport.bundle.evaluation import EvalData
from gnnexport.bundle.reader import open_bundle
from gnnexport.bundle.report_schema import (
    Bits,
    Budgets,
    DataInfo,
    Drop,
    LawResult,
    Measurement,
    MetricValue,
    ParityResult,
    Ratio,
    Report,
    Result,
    Speedup,
)
from gnnexport.errors import ParityError
from gnnexport.frontends.baseline import Baseline
from gnnexport.measure.budgets import parse_budget
from gnnexport.measure.environment import busy_note, describe_environment
from gnnexport.measure.records import latency_record, nodes_per_second, ratio_record
from gnnexport.measure.timing import Timing, compare, ratio
from gnnexport.pipeline.bits import count_bits
from gnnexport.pipeline.divergence import blame
from gnnexport.pipeline.emission import Emission, Emitter
from gnnexport.pipeline.source import Source, unread_note
from gnnexport.pipeline.sparsity import count_sparsity
from gnnexport.pipeline.stage_emission import cost_of_request
from gnnexport.program.cost import Cost, measure_cost
from gnnexport.program.inputs import Role
from gnnexport.program.program import Program
from gnnexport.runtime.peak import peak_memory_bytes
from gnnexport.runtime.runner import Runner, load_to_prove
from gnnexport.validate.accuracy import measure_accuracy, original_metric
from gnnexport.validate.bundle import stand_in_note
from gnnexport.validate.conformance import Conformance, run_kit
from gnnexport.validate.parity import compare_outputs

SAME = Ratio(value=1.0, ci95=(1.0, 1.0), method="nothing was compressed: it is the same file")
BASELINE, EXPORTED, RESULT = "baseline", "exported", "result"


@dataclass(frozen=True)
class Form:
    """One form of the model on the target: what was written, and where."""

    emission: Emission
    folder: Path


@dataclass(frozen=True)
class Prover:
    """Measure the forms of one source on one target.

    Args:
        baseline: the best way to run the original in PyTorch.
        original: the Program before anything was reordered, for its cost.
        timing_budget_s: seconds of timing.
        emitter: that wrote the forms.
    """

    source: Source
    baseline: Baseline
    original: Program
    budgets: Budgets
    threads: int
    timing_budget_s: float
    emitter: Emitter

    def prove(self, exported: Form, result: Form) -> Report:
        """Return the report, not yet judged; the forms are one and the same when nothing was compressed.

        Raises:
            ParityError: an artefact does not compute what its Program computes.
        """
        same = exported is result
        unread = unread_note(self.source, self.original)
        notes: list[str] = [*self.source.notes, *unread, *result.emission.notes]
        with (
            load_to_prove(exported.folder, threads=self.threads) as plain,
            load_to_prove(result.folder, threads=self.threads) as small,
        ):
            parity, laws = self._parity(exported, plain, result, small, notes)
            timings = self._time(plain, small, same)
            plain_metric, _ = self._accuracy(plain, exported)
            metric, drop = self._accuracy(small, result)
            engine, not_run = small.name, small.engine_not_run
            request = small.request_sizes(self._feeds(small))
        if self.source.targets is not None:
            notes.append("requests were timed without rows kept from earlier ones, which make later ones faster")
        notes += [*stand_in_note(engine, not_run), *busy_note(self.threads)]
        final = self._measurement(result, engine, timings.get(RESULT), metric)
        measured = final if same else self._measurement(exported, engine, timings.get(EXPORTED), plain_metric)
        speedup = _speedup(timings, same)
        notes += worse(speedup.against_exported, measured.size_bytes, final.size_bytes)
        return Report(
            model={"name": self.source.path.name, "class": self.source.class_name, "sha256": self.source.digest()},
            data=self._data(request),
            environment={**describe_environment(), "threads": self.threads},
            budgets=self.budgets,
            baseline=self._baseline(timings, result.emission.evaluation),
            exported=measured,
            result=Result(
                **{
                    **final.model_dump(),
                    "sizes": result.emission.sizes,
                    "bits": self._bits(result),
                    "sparsity": count_sparsity(result.emission.program, result.emission.artefact),
                },
            ),
            drop=drop,
            speedup=speedup,
            parity=parity,
            laws=laws,
            engine_not_run=not_run,
            lowering=result.emission.lowering,
            notes=tuple(notes),
        )

    def _data(self, request: dict[str, int]) -> DataInfo:
        data = self.source.data
        return DataInfo(
            name=data.name,
            nodes=data.num_nodes,
            edges=data.num_edges,
            graphs=data.num_graphs,
            pairs=data.by_role(Role.LABEL_EDGES).shape[1] if data.level == "pair" else None,
            request=request,
        )

    def _parity(
        self, exported: Form, plain: Runner, result: Form, small: Runner, notes: list[str]
    ) -> tuple[ParityResult | None, tuple[LawResult, ...]]:
        """Run the conformance kit on both artefacts, and hold the uncompressed one against the original model."""
        bundle = open_bundle(result.folder)
        kit = self._conformance(result, small)
        seen = kit.parity
        if seen is None:
            notes.append("parity not checked: every golden case was left out")
        if exported is not result:
            self._conformance(exported, plain)
        name = plain.outputs[0].name
        against_original = compare_outputs(
            {name: self.source.request_answer.numpy()}, {name: plain(self._feeds(plain))[name]}
        )
        tolerance = bundle.manifest.tolerance
        if against_original.max_rel_error > tolerance:
            raise ParityError.at(
                "export",
                f"the uncompressed export differs from the original model by {against_original.max_rel_error:.2g} "
                f"of the largest output and moves {against_original.moved} predictions",
                "This is a bug: report it with the model",
            )
        if exported is result and seen is not None:
            seen = seen.merge(against_original)
        notes.append(
            f"uncompressed export against the original model: largest error {against_original.max_rel_error:.2g} of "
            f"the largest output, {against_original.moved} predictions moved of {against_original.near_ties} near-ties"
        )
        return None if seen is None else seen.record(tolerance, len(bundle.golden())), kit.laws

    def _conformance(self, form: Form, runner: Runner) -> Conformance:
        """Run the kit; where something is wrong, find the module at fault.

        Raises:
            ParityError: names golden cases, laws and the PyTorch module where outputs first diverge.
            UnsupportedError: the engine gives up on a request.
        """
        bundle = open_bundle(form.folder)
        found = run_kit(bundle, runner)
        if found.failures:
            asks = found.wrong and self.source.targets is None
            blamed = f"; {blame(self.emitter, form.emission, bundle, found.wrong)}" if asks else ""
            raise found.error("artefact", blamed)
        return found

    def _feeds(self, runner: Runner) -> dict[str, np.ndarray]:
        return self.source.feeds(tensor.name for tensor in runner.inputs)

    @property
    def _answered(self) -> int:
        """Nodes that a typical request brings or asks about."""
        return self.source.request.num_nodes if self.source.targets is None else len(self.source.targets)

    def _time(self, plain: Runner, small: Runner, same: bool) -> dict[str, Timing]:
        """Time the forms side by side; what only stands in for an engine has no time worth knowing."""
        feeds = self._feeds(plain)
        contenders: dict[str, Callable[[], object]] = {BASELINE: self.baseline.run}
        if small.engine_not_run is None:
            contenders[RESULT] = lambda: small(feeds)
            if not same:
                contenders[EXPORTED] = lambda: plain(feeds)
        timings = compare(contenders, budget_s=self.timing_budget_s)
        return {EXPORTED: timings[RESULT], **timings} if RESULT in timings else timings

    def _accuracy(self, runner: Runner, form: Form) -> tuple[MetricValue | None, Drop | None]:
        if form.emission.evaluation is None:
            return None, None
        budget = parse_budget(self.budgets.max_drop).value if self.budgets.max_drop else 0.0
        return measure_accuracy(runner, form.emission.evaluation, budget=budget)

    def _measurement(self, form: Form, engine: str, timing: Timing | None, metric: MetricValue | None) -> Measurement:
        cost = self._cost(form.emission.program)
        return Measurement(
            metric=metric,
            **_costs(cost),
            size_bytes=form.emission.size_bytes,
            latency_ms=None if timing is None else latency_record(timing),
            nodes_per_second=None if timing is None else nodes_per_second(self._answered, timing),
            peak_memory_bytes=None if timing is None else peak_memory_bytes(form.folder),
            runner=engine,
        )

    def _bits(self, form: Form) -> Bits | None:
        return count_bits(form.emission.program, self.source.data.inputs, form.emission.artefact)

    def _cost(self, program: Program) -> Cost:
        """Count what the typical request costs."""
        if self.source.targets is not None:
            return cost_of_request(program, self.source.data.inputs, self.source.targets)
        return measure_cost(program, self.source.request.inputs)

    def _baseline(self, timings: Mapping[str, Timing], judged: EvalData | None) -> Measurement:
        cost = self._cost(self.original)
        return Measurement(
            metric=None if judged is None else original_metric(judged),
            **_costs(cost),
            size_bytes=sum(item.numel() * item.element_size() for item in self.source.model.state_dict().values()),
            latency_ms=latency_record(timings[BASELINE]),
            nodes_per_second=nodes_per_second(self._answered, timings[BASELINE]),
            runner=self.baseline.name,
        )


def worse(speedup: Ratio | None, exported_bytes: int | None, result_bytes: int | None) -> list[str]:
    """Say where the result is measurably slower, or larger, than the model that nothing compressed."""
    notes = []
    if speedup is not None and speedup.ci95 is not None and speedup.ci95[1] < 1:
        notes.append(f"slower than the uncompressed export: {speedup.value:.2f} times as fast")
    if exported_bytes is not None and result_bytes is not None and result_bytes > exported_bytes:
        notes.append(f"larger than the uncompressed export: {exported_bytes:,} to {result_bytes:,} bytes")
    return notes


def _speedup(timings: Mapping[str, Timing], same: bool) -> Speedup:
    """Compare the result with the other two, as far as the engine was timed."""
    if RESULT not in timings:
        return Speedup()
    return Speedup(
        against_baseline=ratio_record(ratio(timings[BASELINE], timings[RESULT])),
        against_exported=SAME if same else ratio_record(ratio(timings[EXPORTED], timings[RESULT])),
    )


def _costs(cost: Cost) -> dict[str, int]:
    return {
        "parameters": cost.parameters,
        "macs": cost.macs(),
        "macs_linear": cost.macs("linear"),
        "macs_aggregation": cost.macs("aggregation"),
    }
