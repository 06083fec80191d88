"""Choose the lowering of each reduction: shortlist by cost, then time the few that are left on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.measure.timing import compare
from gnnexport.native.library import PATHS, path_name
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.dense import dense_applies
from gnnexport.targets.onnx.executed import Operand
from gnnexport.targets.onnx.lower import lower_one
from gnnexport.targets.onnx.operators import Operator
from gnnexport.targets.onnx.order import natural
from gnnexport.targets.onnx.pieces import cut
from gnnexport.targets.onnx.tape import Constants, Tape, sizes

Lowering = Literal["auto", "native", "ell", "dense", "scatter"]

NATIVE = "native"

Timer = Callable[[ir.Model, Mapping[str, NDArray[Any]]], Callable[[], object]]
"""Opens a model and returns a function that runs it once on the inputs given by name."""

SHORTLIST = 3
FAR = 4.0
"""A lowering estimated this many times slower than the best is not timed."""

MOST_SCATTERED = 1_000_000
"""Elements above which scatter is not timed: it is serial, and one run would take long."""

MARGIN = 0.05
"""Share by which a winner must beat the cost model's favourite, where the noise is less."""

UNSURE = 0.5
"""The same share where candidates are so slow that each ran once."""

BLOCK = 5
"""Runs of a candidate in a row, the first of which does not count."""

FEWEST_RUNS = 12
"""Runs that timing a candidate in blocks takes at least; where they do not fit into its time it runs once."""

MOST_ROUNDS = 20


@dataclass(frozen=True)
class Candidate:
    """A lowering with its estimate, and its time where it was measured."""

    name: str
    estimate_ms: float
    latency_ms: float | None = None


@dataclass
class Choices:
    """Decides each distinct reduction once and remembers how.

    Args:
        forced: the lowering asked for, or `auto`.
        ctx: threads, time and decisions to replay.
        run: opens a model to be timed, or `None` where nothing can be timed.
        native: our own kernels may be chosen.
        quantised: the form of a quantised model that was asked for, or `auto`.
        operands: of a quantised model, as it was lowered.
        sizes: that are open in the model, by name, as a typical request has them.
        sparse: of matrices that operators may hold without their zeros, by name: how many zeros the operators skip, how
            many numbers there are, and the layout.
    """

    forced: Lowering
    ctx: EmitContext
    run: Timer | None
    native: bool = False
    quantised: str = "auto"
    decisions: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    spent_s: float = 0.0
    operands: tuple[Operand, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    sparse: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)

    @property
    def kernels(self) -> str:
        """Name the instruction set that the kernels are called for: this processor's, or that of the decisions."""
        replayed = (self.ctx.decisions or {}).get("kernels")
        return str(replayed) if replayed in PATHS else path_name()

    @property
    def report(self) -> tuple[dict[str, Any], ...]:
        """Rows of the report's `lowering`: what was chosen, and what it means for each quantised operand."""
        return (*self.rows, *(operand.row() for operand in self.operands))

    @property
    def calls_kernels(self) -> bool:
        """Whether the kernels were chosen for anything."""
        return not {NATIVE, "narrow", "narrow-sums"}.isdisjoint(self.decisions.values())

    def record(self, threads: int) -> dict[str, Any]:
        """Return all that was decided, as `decisions.json` holds it; `threads` are those that inference may use."""
        kernels = {"kernels": self.kernels} if self.calls_kernels else {}
        return {"lowerings": dict(self.decisions), "threads": threads, **kernels}

    def __call__(self, op: Operator) -> str:
        """Name the lowering of a reduction."""
        key = describe(op)
        if key not in self.decisions:
            candidates = self._candidates(op, key)
            self.decisions[key] = candidates[0].name
            listed = [{"name": item.name, "latency_ms": item.latency_ms} for item in candidates]
            self.rows.append({"op": key, "chosen": candidates[0].name, "candidates": listed})
        return self.decisions[key]

    def settle(self, ops: Sequence[Operator]) -> bool:
        """Decide for the kernels everywhere or nowhere, by what all reductions take together; tell which.

        What was not timed, as its estimate was far from the best or nothing else was near, counts as estimated.
        """
        times = {describe(op): self._times(op) for op in ops}
        without = {key: {name: ms for name, ms in row.items() if name != NATIVE} for key, row in times.items()}
        native = sum(times[describe(op)][NATIVE] for op in ops) <= sum(
            min(without[describe(op)].values()) for op in ops
        )
        for row in self.rows:
            others = without[row["op"]]
            row["chosen"] = NATIVE if native else min(others, key=lambda name: others[name])
            self.decisions[row["op"]] = row["chosen"]
        return native

    def _times(self, op: Operator) -> dict[str, float]:
        """Return milliseconds of each lowering, as timed or else as estimated."""
        (row,) = (row for row in self.rows if row["op"] == describe(op))
        timed = {item["name"]: item["latency_ms"] for item in row["candidates"] if item["latency_ms"] is not None}
        return {item.name: timed.get(item.name, item.estimate_ms) for item in _estimates(op, native=True)}

    def _candidates(self, op: Operator, key: str) -> list[Candidate]:
        """Return what was considered, the winner first."""
        replayed = (self.ctx.decisions or {}).get("lowerings", {}).get(key)
        listed = shortlist(op, self.native)
        if replayed is not None or self.forced != "auto":
            wanted = replayed if self.forced == "auto" else self.forced
            fitting = [item for item in _estimates(op, self.native) if item.name == wanted]
            if not fitting:
                self.ctx.note(f"{key}: '{wanted}' cannot do this; ell is taken")
            return fitting or [Candidate("ell", 0.0)]
        if len(listed) == 1 or self.run is None or self.spent_s > self.ctx.time_budget_s:
            return listed
        start = time.perf_counter()
        timed = self._time(op, listed)
        self.spent_s += time.perf_counter() - start
        return timed

    def _time(self, op: Operator, listed: list[Candidate]) -> list[Candidate]:
        assert self.run is not None
        models = {item.name: alone(op, item.name) for item in listed}
        runs = {name: self.run(model, random_inputs(model, self.ctx.seed)) for name, model in models.items()}
        left_s = self.ctx.time_budget_s - self.spent_s
        medians, noise = time_candidates(runs, min(left_s, self.ctx.time_budget_s / 10))
        measured = [Candidate(item.name, item.estimate_ms, medians[item.name]) for item in listed]
        return winner_first(measured, noise)


def winner_first(measured: list[Candidate], noise: float) -> list[Candidate]:
    """Put the fastest first, if it beats the first one by more than the noise."""
    favourite = measured[0]
    best = min(measured, key=lambda item: item.latency_ms or math.inf)
    assert best.latency_ms is not None
    assert favourite.latency_ms is not None
    if best.latency_ms > favourite.latency_ms * (1 - max(MARGIN, noise)):
        best = favourite
    return [best, *(item for item in measured if item is not best)]


def random_inputs(model: ir.Model, seed: int) -> dict[str, NDArray[Any]]:
    """Draw a value for each input of a model whose sizes are known."""
    random = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.graph.inputs:
        assert value.dtype is not None
        feeds[str(value.name)] = random.standard_normal(sizes(value)).astype(value.dtype.numpy())
    return feeds


def sizes_of(graph: ir.Graph, sample: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return the sizes of a graph's inputs that have names, as a request has them."""
    given = ((list(value.shape or ()), sample.get(str(value.name))) for value in graph.inputs)
    pairs = (pair for shape, array in given if array is not None for pair in zip(shape, array.shape, strict=True))
    return {str(name.value): size for name, size in pairs if isinstance(name, ir.SymbolicDim) and name.value}


def describe(op: Operator) -> str:
    """Name a reduction by what decides its speed: the same text, the same lowering."""
    weight = " attention" if op.weight is not None else " weighted" if op.static_weight is not None else ""
    rows = 0 if op.rowptr is None else len(op.rowptr) - 1
    tail = "×".join(str(size) for size in op.tail)
    return f"{op.kind} {op.reduce}{weight} {rows} rows {op.num_slots} slots [{tail}]"


def shortlist(op: Operator, native: bool = False) -> list[Candidate]:
    """Return at most three lowerings, the cheapest by estimate first."""
    ordered = sorted(_estimates(op, native), key=lambda item: item.estimate_ms)
    near = [item for item in ordered if item.estimate_ms <= FAR * ordered[0].estimate_ms]
    elements = op.num_slots * math.prod(op.tail)
    return [item for item in near if item.name != "scatter" or elements <= MOST_SCATTERED][:SHORTLIST] or ordered[:1]


def _estimates(op: Operator, native: bool) -> list[Candidate]:
    """Estimate each lowering that applies, in milliseconds on two cores; only the order of magnitude counts."""
    assert op.rowptr is not None
    width = math.prod(op.tail)
    pieces = cut(op.rowptr)
    gathered = op.num_slots * (12e-6 + width * 0.25e-6) * (2 if op.weight_shape is not None and len(op.tail) > 1 else 1)
    estimates = [Candidate("ell", gathered + 0.006 * pieces.table_count + 0.01)]
    if dense_applies(op):
        rows, columns = len(op.rowptr) - 1, sizes(op.x)[0]
        estimates.append(Candidate("dense", rows * columns * (0.1e-6 + width * 0.015e-6) + 0.005))
    estimates.append(Candidate("scatter", op.num_slots * width * 5e-6 + 0.03))
    if native:
        estimates.append(Candidate(NATIVE, op.num_slots * (4e-6 + width * 0.06e-6) + 0.01))
    return estimates


def alone(op: Operator, lowering: str) -> ir.Model:
    """Return a model of one reduction, to be timed."""
    if lowering == NATIVE:
        return _alone_native(op)
    op = natural(op) if lowering == "ell" else op
    inputs = [_input(value) for value in (op.x, op.weight) if value is not None]
    graph = ir.Graph(inputs, [], nodes=[], name="reduction", opset_imports={"": 20})
    tape = Tape(Constants(graph), "node")
    copy = replace(op, x=inputs[0], weight=inputs[1] if op.weight is not None else None)
    out = lower_one(copy, lowering, tape, {})
    if not tape.nodes:
        out = tape.like("Identity", [out], sizes(op.out))
    graph.extend(tape.nodes)
    graph.outputs.append(out)
    return ir.Model(graph, ir_version=10)


def _alone_native(op: Operator) -> ir.Model:
    inputs = [_input(value) for value in (op.x, op.weight) if value is not None]
    graph = ir.Graph(inputs, [], nodes=[], name="reduction", opset_imports={"": 20, schemas.DOMAIN: schemas.VERSION})
    constants = Constants(graph)
    assert op.rowptr is not None
    given: list[ir.Value | None] = [inputs[0], constants.add(op.rowptr.astype(np.int32))]
    if op.col is not None:
        given.append(constants.add(op.col.astype(np.int32)))
    if op.weight_shape is not None:
        given.append(inputs[1] if op.static_weight is None else constants.add(op.static_weight))
    node = ir.node(op.kind, given, {"reduce": op.reduce}, domain=schemas.DOMAIN)
    node.outputs[0].shape, node.outputs[0].type = op.out.shape, op.out.type
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=10)


def _input(value: ir.Value) -> ir.Value:
    return ir.Value(name=str(value.name), shape=value.shape, type=value.type)


def time_candidates(runs: Mapping[str, Callable[[], object]], budget_s: float) -> tuple[dict[str, float], float]:
    """Time candidates side by side; return milliseconds, and the share by which they have to differ to differ at all.

    Every one runs at least once. Those for which more does not fit into their share of the time run just once.
    """
    first_s = {name: _seconds(run) for name, run in runs.items()}
    share_s = (budget_s - sum(first_s.values())) / len(runs)
    fast = {name: run for name, run in runs.items() if first_s[name] * FEWEST_RUNS <= share_s}
    enough_s = MOST_ROUNDS * BLOCK * sum(first_s[name] for name in fast)
    timings = compare(fast, budget_s=min(share_s * len(fast), enough_s), block=BLOCK, drop=1, pause_s=0)
    medians = {name: timings[name].p50_ms if name in timings else first_s[name] * 1000 for name in runs}
    if len(fast) < min(2, len(runs)):
        return medians, UNSURE
    blocks = {name: timing.block_medians_ms for name, timing in timings.items()}
    spread = [float(np.subtract(*np.percentile(blocks[name], [75, 25]))) / medians[name] for name in blocks]
    return medians, max(spread)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
