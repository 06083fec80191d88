"""How lowerings are chosen."""

from __future__ import annotations

import time

import onnx_ir as ir
import pytest

from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.bake import bake
from gnnexport.targets.onnx.choice import SHORTLIST, UNSURE, Choices, shortlist, time_candidates
from gnnexport.targets.onnx.operators import Operator, dialect_nodes, read
from gnnexport.targets.onnx.order import natural
from gnnexport.targets.onnx.tape import sizes
from gnnexport.targets.onnx.target import OnnxTarget
from tests.targets.graphs import Csr, from_degrees
from tests.targets.networks import CHANNELS, network
from tests.targets.sketch import Sketch, normal

SMALL = from_degrees([2] * 20)
LARGE = from_degrees([10] * 30_000)


def aggregation(graph: Csr, channels: int = CHANNELS, reduce: str = "sum") -> Operator:
    """Return one aggregation of the dialect."""
    sketch = Sketch()
    x = sketch.features("x", (graph.num_nodes, channels))
    inputs = [x, sketch.structure("rowptr", graph.rowptr), sketch.structure("col", graph.col)]
    out = sketch.op("Aggregate", inputs, (graph.num_nodes, channels), reduce=reduce)
    return read(dialect_nodes(bake(sketch.finish(out)).graph)[0])


def test_large_graphs_never_time_scatter() -> None:
    """Scatter is serial: one run of it would take longer than all the rest."""
    assert [item.name for item in shortlist(aggregation(LARGE, 64))] == ["ell"]


def test_large_graphs_never_become_dense() -> None:
    """An adjacency of a large graph does not fit into a model."""
    assert "dense" not in [item.name for item in shortlist(aggregation(LARGE, 1))]


def test_small_graphs_are_dense() -> None:
    """A product with a small matrix costs one operator."""
    listed = shortlist(aggregation(SMALL))
    assert listed[0].name == "dense"
    assert len(listed) <= SHORTLIST


def test_the_largest_of_neighbours_is_never_dense() -> None:
    """A product cannot take a maximum."""
    assert "dense" not in [item.name for item in shortlist(aggregation(SMALL, reduce="max"))]


def test_estimates_decide_where_nothing_can_be_timed() -> None:
    """Without a runtime the cheapest estimate is taken and no latency is reported."""
    choices = Choices("auto", EmitContext(), run=None)
    assert choices(aggregation(SMALL)) == "dense"
    assert [item["latency_ms"] for item in choices.rows[0]["candidates"]] == [None] * len(choices.rows[0]["candidates"])


def test_what_cannot_be_forced_is_noted() -> None:
    """A forced lowering that cannot do an operator gives way to tables, with a note."""
    notes: list[str] = []
    choices = Choices("dense", EmitContext(note=notes.append), run=None)
    assert choices(aggregation(SMALL, reduce="max")) == "ell"
    assert "'dense' cannot do this" in notes[0]


def test_rows_that_may_mix_are_noted() -> None:
    """A model that mixes rows says which operator keeps its nodes from being renumbered once."""
    notes: list[str] = []
    graph = from_degrees([1, 2, 3] * 10)
    value, _ = network("mixing", graph, normal((graph.num_nodes, CHANNELS)))
    OnnxTarget(aggregate="ell").lowered(value, EmitContext(note=notes.append))
    assert "'CumSum' may mix rows" in notes[0]


@pytest.mark.parametrize("name", ["gcn", "sage-mean", "gat", "edge-features"])
def test_nodes_are_renumbered_once(name: str) -> None:
    """The output is gathered back by one operator, and no aggregation restores the order itself."""
    graph = from_degrees([1, 5, 0, 2] * 70)
    value, _ = network(name, graph, normal((graph.num_nodes, CHANNELS)))
    model, _ = OnnxTarget(aggregate="ell").lowered(value, EmitContext())
    gathers = [node for node in model.graph if node.op_type == "Gather"]
    whole = [node.outputs[0].name for node in gathers if _index_shape(node) == (graph.num_nodes,)]
    assert [name for name in whole if not str(name).endswith("_renumbered")] == ["logits"]


def test_a_reduction_is_timed_in_the_order_of_its_tables() -> None:
    """What is timed holds no permutation that the whole model does not have."""
    op = natural(aggregation(from_degrees([3, 1, 2] * 80)))
    assert op.rowptr is not None
    degree = op.rowptr[1:] - op.rowptr[:-1]
    assert (degree[1:] >= degree[:-1]).all()


class Slept:
    """A candidate that takes a while, and counts its runs."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.runs = 0

    def __call__(self) -> None:
        """Run once."""
        self.runs += 1
        time.sleep(self.seconds)


def test_a_slow_candidate_runs_once() -> None:
    """Timing keeps to its budget whatever a candidate costs; the fast ones still run in blocks."""
    runs = {"slow": Slept(0.1), "fast": Slept(0.0), "quick": Slept(0.0)}
    medians, noise = time_candidates(runs, budget_s=0.4)
    assert runs["slow"].runs == 1
    assert min(runs["fast"].runs, runs["quick"].runs) > 10
    assert medians["slow"] >= 100
    assert noise != UNSURE


def test_single_runs_decide_only_what_is_plain() -> None:
    """Where every candidate ran once, a winner has to take half the time."""
    runs = {"slow": Slept(0.1), "slower": Slept(0.11)}
    assert time_candidates(runs, budget_s=0.1)[1] == UNSURE
    assert [item.runs for item in runs.values()] == [1, 1]


def _index_shape(node: ir.Node) -> tuple[int, ...]:
    index = node.inputs[1]
    assert index is not None
    return sizes(index)
