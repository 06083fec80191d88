"""`report.json`, schema 1. Numbers carry their unit in the key; null means not measured."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from gnnexport.bundle.graph_sets import Level
from gnnexport.bundle.record import Record, parse_record

SCHEMA = 1


class MetricValue(Record):
    """A metric on one split.

    Args:
        value: null where the model answers NaN or infinity, of which no error can be told.
        n: rows judged.
        level: what a row is about.
    """

    name: str
    split: str
    value: float | None
    n: int
    level: Level = "node"


class Latency(Record):
    """Percentiles of one inference, in milliseconds."""

    p50: float
    p95: float
    p99: float
    runs: int


class Measurement(Record):
    """What was measured of one form of the model.

    Args:
        macs: multiply-accumulates of one inference: those of linear layers and those of aggregation.
        size_bytes: the model's files; for the original, its parameters and buffers.
        nodes_per_second: nodes of the request that was timed over the median latency.
        runner: what ran it: `pytorch-csr`, `pytorch-eager`, `onnxruntime`.
        measured_on: where, when it is not `environment`.
    """

    metric: MetricValue | None = None
    parameters: int | None = None
    macs: int | None = None
    macs_linear: int | None = None
    macs_aggregation: int | None = None
    size_bytes: int | None = None
    latency_ms: Latency | None = None
    nodes_per_second: float | None = None
    peak_memory_bytes: int | None = None
    runner: str | None = None
    measured_on: str | None = None


class Sizes(Record):
    """Where the bytes of the result go."""

    weights_bytes: int | None = None
    graph_bytes: int | None = None
    features_bytes: int | None = None
    metadata_bytes: int | None = None


class QuantisedOperand(Record):
    """A value that a pass quantised or cast, and what became of it on the target.

    Args:
        name: of the value in the Program.
        kind: `input` of a linear map, `features` where that is what a request brings, `aggregated`, `attention`, or
            `weight`.
        per: what shares a step: `node`, `row`, `column`, `channel`, `group`, `tensor`; `number` of a float of 16 bits.
        count: numbers in it.
        bits: of a number, as the pass has it: the mean where rows differ.
        stored: bits that a number takes in the containers it is kept in.
        executed: bits that the arithmetic runs on.
        arithmetic: which that is, in words.
        size_bytes: numbers, steps and widths, as stored.
    """

    name: str
    kind: str
    per: str
    count: int
    bits: float
    stored: float
    executed: float
    arithmetic: str
    size_bytes: int


class Bits(Record):
    """Bit widths, as the method counts them, as stored, as executed, and as only simulated.

    Weights are among the operands, and in no other number here: their bytes are those of the model's files.

    Args:
        average_paper: mean over the quantised inputs of linear maps of the mean over their rows; raw features left out.
        ratio_paper: 32 over that; steps, widths and other operands do not count in it.
        stored: bits a number takes in its containers, over all quantised features.
        executed: bits the arithmetic runs on, over the same numbers.
        simulated: mean width of those that are quantised in value and computed in float; null where there are none.
        feature_bytes: the same numbers with their steps, widths and indices.
        ratio_bytes: their bytes as float32 over that.
        operands: one by one.
    """

    average_paper: float | None = None
    ratio_paper: float | None = None
    stored: float | None = None
    executed: float | None = None
    simulated: float | None = None
    feature_bytes: int | None = None
    ratio_bytes: float | None = None
    operands: tuple[QuantisedOperand, ...] = ()


class EdgeSet(Record):
    """The edges that one layer reads, loops of nodes on themselves aside: none of those is ever removed.

    Args:
        name: of the layer.
        kept: edges that are left.
        total: edges of the graph.
    """

    name: str
    kept: int
    total: int


class SparseWeight(Record):
    """A matrix of weights in the files, of which some numbers are zero.

    Args:
        name: of the matrix.
        numbers: in it.
        zeros: among them.
        skipped: zeros that the operator chosen for it does not multiply; the others are stored, not executed. Null
            where the engine decides that by itself and does not tell.
        layout: in which that operator holds it, or may.
        dense_bytes: that it would take with its zeros.
        stored_bytes: that it takes in the files, with the places of its numbers.
    """

    name: str
    numbers: int
    zeros: int
    skipped: int | None = 0
    layout: str = "dense"
    dense_bytes: int
    stored_bytes: int


class Sparsity(Record):
    """Shares of zeros, told apart by whether a kernel makes use of them.

    Args:
        edges: share of the edges that were removed, over all layers; loops of nodes on themselves do not count.
        weights_stored: share of zeros among the numbers of all matrices of weights in the files.
        weights_executed: share of zeros among the same numbers that are never multiplied; null where an engine may skip
            some and does not tell.
        dense_bytes: of all these matrices with their zeros.
        stored_bytes: of the same in the files.
        layers: edges, layer by layer.
        weights: the matrices that hold zeros.
    """

    edges: float | None = None
    weights_stored: float | None = None
    weights_executed: float | None = None
    dense_bytes: int | None = None
    stored_bytes: int | None = None
    layers: tuple[EdgeSet, ...] = ()
    weights: tuple[SparseWeight, ...] = ()


class Result(Measurement):
    """What was measured of the files of the bundle; bits and sparsity only where a pass set them."""

    sizes: Sizes | None = None
    bits: Bits | None = None
    sparsity: Sparsity | None = None

    @model_serializer(mode="wrap")
    def _leave_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value is not None or key not in ("bits", "sparsity")}


class Drop(Record):
    """How much worse the result is than the baseline; positive is worse.

    Args:
        value: in the metric's own unit: 0.005 of accuracy is 0.5 pp; null where the result has no value of the
            metric, which misses every budget.
        method: how the interval was made.
        deciding_n: test rows that would bring the interval clear of the budget.
    """

    value: float | None
    ci95: tuple[float, float] | None = None
    method: str | None = None
    deciding_n: int | None = None


class Ratio(Record):
    """A ratio of medians: 2 is twice as fast."""

    value: float
    ci95: tuple[float, float] | None = None
    method: str | None = None


class Speedup(Record):
    """How many times faster the result is."""

    against_baseline: Ratio | None = None
    against_exported: Ratio | None = None


class ParityResult(Record):
    """How far the artefact is from the model it was made from.

    Args:
        max_rel_error: relative to the largest magnitude of the output.
        moved: predictions that differ; all of them are near-ties.
        near_ties: predictions whose margin of the top two is within twice the error, so that they may differ.
        flipped: rows of a quantised model that differ by more, as values on the border between two levels explain.
        cases: golden cases checked.
    """

    max_abs_error: float
    max_rel_error: float
    tolerance: float
    moved: int | None = None
    near_ties: int | None = None
    flipped: int | None = None
    cases: int | None = None


class LawResult(Record):
    """A law of message passing, checked on the target.

    Args:
        requests: changed requests that were run.
        max_rel_error: largest difference between answers that have to be the same, relative to the largest output;
            null where none was run.
        exempt: why it is not demanded: how the model itself breaks it in PyTorch.
        unchecked: why it is not checked, or not on every graph that it is meant for.
    """

    law: str
    requests: int = 0
    max_rel_error: float | None = None
    exempt: str | None = None
    unchecked: str | None = None


class Step(Record):
    """What one pass did; `bytes` counts parameters and buffers."""

    name: str = Field(validation_alias="pass", serialization_alias="pass")
    kept: bool
    seconds: float | None = None
    metric: float | None = None
    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None
    notes: tuple[str, ...] = ()


class Candidate(Record):
    """A lowering that was tried."""

    name: str
    latency_ms: float | None = None


class Lowering(Record):
    """The lowering chosen for one op, and what it was chosen from."""

    op: str
    chosen: str
    candidates: tuple[Candidate, ...] = ()


class DataInfo(Record):
    """The data the numbers come from.

    Args:
        graphs: of a set; null for one graph.
        pairs: of nodes that the data asks about; null where it asks about none.
        request: dynamic sizes of the request that was timed, by name, such as `num_nodes`; empty where every
            request is about the one graph. Null when nothing was timed.
    """

    name: str | None = None
    nodes: int | None = None
    edges: int | None = None
    graphs: int | None = None
    pairs: int | None = None
    request: dict[str, int] | None = None


class Budgets(Record):
    """What the result is judged against, as written on the command line; null when there is no such budget.

    Args:
        max_drop_set: the user set it; one nobody set never makes a verdict inconclusive.
        min_speedup_set: likewise.
    """

    max_drop: str | None = None
    max_drop_set: bool = False
    min_speedup: str | None = None
    min_speedup_set: bool = False


class Report(Record):
    """The whole report.

    Args:
        laws: of message passing: checked on the target, not obeyed by the model itself, or not checked.
        engine_not_run: why the engine could not run where this was measured; accuracy and parity are then those of the
            model it was built from, and its latency and memory are null. Null when the engine ran.
    """

    schema_version: int = Field(SCHEMA, validation_alias="schema", serialization_alias="schema")
    verdict: Literal["pass", "fail", "inconclusive"] = "inconclusive"
    reasons: tuple[str, ...] = ()
    model: dict[str, Any] = Field(default_factory=dict)
    data: DataInfo = Field(default_factory=DataInfo)
    environment: dict[str, Any] = Field(default_factory=dict)
    target: str | None = None
    budgets: Budgets = Field(default_factory=Budgets)
    baseline: Measurement = Field(default_factory=Measurement)
    exported: Measurement = Field(default_factory=Measurement)
    result: Result = Field(default_factory=Result)
    drop: Drop | None = None
    speedup: Speedup = Field(default_factory=Speedup)
    parity: ParityResult | None = None
    laws: tuple[LawResult, ...] = ()
    engine_not_run: str | None = None
    steps: tuple[Step, ...] = ()
    lowering: tuple[Lowering, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Write the report as text."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values, by the keys of the file."""
        return self.model_dump(mode="json", by_alias=True)


def parse_report(text: str, where: str) -> Report:
    """Parse a report.

    Raises:
        UsageError: not a report, or one of a schema newer than this.
    """
    return parse_record(Report, text, where, schema=SCHEMA, mend="Run 'gnnexport compress' again")
