"""Each lowering of each operator of the dialect against numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.native.library import why_missing
from gnnexport.targets.contract import DialectModel, EmitContext
from gnnexport.targets.onnx.choice import Lowering
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.ort import OrtTarget
from tests.targets.graphs import Csr, graphs
from tests.targets.networks import CHANNELS, NAMES, network
from tests.targets.sketch import Array, Sketch, normal, reduce, run, softmax

KERNELS = ("native",) if why_missing() is None else ()
LOWERINGS = (*KERNELS, "ell", "dense", "scatter")
REDUCTIONS = ("sum", "mean", "max", "min", "prod")
TOLERANCE = 1e-5
HEADS = 2


def answer(sketch: Sketch, out: ir.Value, lowering: Lowering, x: Array) -> Array:
    """Lower a model, check that it is valid ONNX and run it."""
    return run(lowered(sketch.finish(out), lowering), {"x": x})


def lowered(dialect: DialectModel, lowering: Lowering) -> bytes:
    """Lower a model and check that it is valid ONNX, of standard operators unless the kernels are to run."""
    target = OrtTarget(aggregate=lowering) if lowering == "native" else OnnxTarget(aggregate=lowering)
    proto = ir.to_proto(target.lowered(dialect, EmitContext())[0])
    onnx.checker.check_model(proto, full_check=True)
    allowed = {"", "gnnexport"} if lowering == "native" else {""}
    assert {node.domain for node in proto.graph.node} <= allowed
    return bytes(proto.SerializeToString())


def features(graph: Csr, kind: str) -> Array:
    """Draw features of nodes: negative ones, of which no largest is zero, or factors that a hub does not overflow."""
    x = normal((graph.num_nodes, CHANNELS))
    return (1 - x / 10 if kind == "prod" else x - 3).astype(np.float32)


def agree(actual: Array, expected: Array, tolerance: float = TOLERANCE) -> bool:
    """Tell whether the largest difference is small against the largest magnitude."""
    assert actual.shape == expected.shape
    return bool(abs(actual - expected).max(initial=0) <= tolerance * max(1.0, abs(expected).max(initial=0)))


@pytest.mark.parametrize("lowering", LOWERINGS)
@settings(max_examples=25, deadline=None)
@given(graph=graphs(), kind=st.sampled_from(REDUCTIONS))
def test_aggregate(lowering: Lowering, graph: Csr, kind: str) -> None:
    """Neighbours are reduced; nodes without edges get zero whatever the reduction, but for a product."""
    sketch, x = Sketch(), features(graph, kind)
    inputs = [sketch.features("x", x.shape), sketch.structure("p", graph.rowptr), sketch.structure("c", graph.col)]
    out = sketch.op("Aggregate", inputs, x.shape, reduce=kind)
    assert agree(answer(sketch, out, lowering, x), reduce(graph, x[graph.col], kind))


@pytest.mark.parametrize("lowering", [*KERNELS, "ell", "scatter"])
@pytest.mark.parametrize(("kind", "end"), [("max", -np.inf), ("min", np.inf)])
def test_the_largest_of_infinite_values(lowering: Lowering, kind: str, end: float) -> None:
    """What was masked by an infinity stays infinite; a node without edges still gets zero."""
    graph = Csr(np.array([0, 2, 2, 3]), np.array([0, 1, 2]))
    sketch, x = Sketch(), np.full((3, CHANNELS), end, np.float32)
    inputs = [sketch.features("x", x.shape), sketch.structure("p", graph.rowptr), sketch.structure("c", graph.col)]
    out = sketch.op("Aggregate", inputs, x.shape, reduce=kind)
    expected = np.array([end, 0, end])[:, None].repeat(CHANNELS, axis=1)
    np.testing.assert_array_equal(answer(sketch, out, lowering, x), expected)


@pytest.mark.parametrize("lowering", LOWERINGS)
@settings(max_examples=15, deadline=None)
@given(graph=graphs(), computed=st.booleans())
def test_aggregate_weighted(lowering: Lowering, graph: Csr, computed: bool) -> None:
    """Edge weights, constant or computed, scale what each slot sends."""
    sketch, x = Sketch(), normal((graph.num_nodes, CHANNELS))
    inputs = [sketch.features("x", x.shape), sketch.structure("p", graph.rowptr), sketch.structure("c", graph.col)]
    weight = normal((graph.num_edges,), 1)
    if computed:
        first = sketch.op("Gather", [inputs[0], sketch.weight("i", np.array(0, np.int64))], (graph.num_nodes,), axis=1)
        inputs.append(sketch.op("GatherSource", [first, inputs[2]], (graph.num_edges,)))
        weight = x[graph.col, 0]
    else:
        inputs.append(sketch.structure("w", weight))
    out = sketch.op("Aggregate", inputs, x.shape, reduce="sum")
    assert agree(answer(sketch, out, lowering, x), reduce(graph, x[graph.col] * weight[:, None], "sum"))


@pytest.mark.parametrize("lowering", LOWERINGS)
@settings(max_examples=15, deadline=None)
@given(graph=graphs(), heads=st.sampled_from([1, 3]))
def test_aggregate_with_heads(lowering: Lowering, graph: Csr, heads: int) -> None:
    """A weight for each head scales that head only."""
    sketch, x = Sketch(), normal((graph.num_nodes, heads, CHANNELS))
    weight = normal((graph.num_edges, heads), 1)
    inputs = [sketch.features("x", x.shape), sketch.structure("p", graph.rowptr), sketch.structure("c", graph.col)]
    out = sketch.op("Aggregate", [*inputs, sketch.structure("w", weight)], x.shape, reduce="sum")
    assert agree(answer(sketch, out, lowering, x), reduce(graph, x[graph.col] * weight[:, :, None], "sum"))


@pytest.mark.parametrize("lowering", LOWERINGS)
@settings(max_examples=15, deadline=None)
@given(graph=graphs(), kind=st.sampled_from(REDUCTIONS))
def test_edge_operators(lowering: Lowering, graph: Csr, kind: str) -> None:
    """Gathers to the edges, a product there, and its reduction."""
    sketch, x = Sketch(), features(graph, kind)
    value, pointers = sketch.features("x", x.shape), sketch.structure("p", graph.rowptr)
    shape = (graph.num_edges, CHANNELS)
    near = sketch.op("GatherSource", [value, sketch.structure("c", graph.col)], shape)
    far = sketch.op("GatherDestination", [value, pointers], shape)
    out = sketch.op("ReduceEdges", [sketch.op("Mul", [near, far], shape), pointers], x.shape, reduce=kind)
    assert agree(answer(sketch, out, lowering, x), reduce(graph, x[graph.col] * x[graph.row], kind))


@pytest.mark.parametrize("lowering", LOWERINGS)
@settings(max_examples=15, deadline=None)
@given(graph=graphs())
def test_edge_softmax_as_output(lowering: Lowering, graph: Csr) -> None:
    """The shares of a row add up to one; edge outputs keep the order of the slots, and large logits stay finite."""
    sketch, x = Sketch(), 50 * normal((graph.num_nodes, HEADS))
    value, pointers = sketch.features("x", x.shape), sketch.structure("p", graph.rowptr)
    shape = (graph.num_edges, HEADS)
    near = sketch.op("GatherSource", [value, sketch.structure("c", graph.col)], shape)
    out = sketch.op("EdgeSoftmax", [near, pointers], shape)
    assert agree(answer(sketch, out, lowering, x), softmax(graph, x[graph.col]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lowering", LOWERINGS)
@settings(max_examples=6, deadline=None)
@given(graph=graphs())
def test_networks(name: str, lowering: Lowering, graph: Csr) -> None:
    """Whole networks answer what numpy answers, in the order of the nodes given."""
    x = normal((graph.num_nodes, CHANNELS), 7)
    dialect, expected = network(name, graph, x)
    # A softmax turns the rounding of a sum over hundreds of neighbours into as much of its shares.
    tolerance = 50 * TOLERANCE if name == "gin" else TOLERANCE
    assert agree(run(lowered(dialect, lowering), {"x": x}), expected, tolerance)
