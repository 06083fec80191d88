"""How the time of one inference is divided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from gnnexport.measure.amdahl import Shares
from gnnexport.native import library
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.session import open_model
from gnnexport.targets.onnx.shares import Timed, divide, take_apart
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.ort import OrtTarget
from tests.targets.graphs import from_degrees
from tests.targets.networks import CHANNELS, NAMES, network
from tests.targets.sketch import Sketch, normal

GRAPH = from_degrees([0, 1, 90, *([3] * 80), *([7] * 70), 200])
X = normal((GRAPH.num_nodes, CHANNELS))
FEEDS = {"x": X}

needs_kernels = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")


def lowered(name: str, target: OnnxTarget) -> ir.Model:
    """Return a small network as a target lowers it."""
    return target.lowered(network(name, GRAPH, X)[0], EmitContext(time_budget_s=0.5))[0]


def everything_takes(ms: Mapping[str, float], more: Mapping[str, float] | None = None) -> Any:
    """Return a profiler for which every operator of a type takes so long, or whose name holds a word."""

    def profile(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> list[Timed]:
        return [
            Timed(str(node.name), node.op_type, next((t for word, t in (more or {}).items() if word in str(node.name)),
                  ms.get(node.op_type, 0.0)))
            for node in model.graph
        ]  # fmt: skip

    return profile


@pytest.mark.parametrize("name", NAMES)
def test_shares_add_up(name: str) -> None:
    """Whatever the network, all of the time is in one share."""
    shares = divide(lowered(name, OnnxTarget()), everything_takes({}, {"": 1.0}), FEEDS, "engine")
    assert shares is not None
    assert shares.linear + shares.aggregation + shares.other == pytest.approx(1)
    assert shares.aggregation > 0
    assert (shares.linear > 0) == (name in ("gcn", "sage-mean", "sage-max", "gin", "gat"))


def test_a_product_with_the_adjacency_is_aggregation() -> None:
    """A product counts as a linear layer where its second operand is made of constants alone."""
    shares = divide(
        lowered("gcn", OnnxTarget(aggregate="dense")), everything_takes({"MatMul": 3.0, "Gemm": 1.0}), FEEDS, "e"
    )
    assert shares == Shares(linear=0.25, aggregation=0.75, other=0, latency_ms=8, engine="e")


def test_what_an_engine_merged_is_told_by_its_name() -> None:
    """Of an operator that the engine made of several, the name holds that of the one that tells most."""
    model = lowered("gcn", OnnxTarget(aggregate="dense"))
    product = next(node for node in model.graph if node.op_type == "MatMul")
    merged = [Timed(f"{product.name}/MatMulAddFusion", "Gemm", 2.0), Timed("Relu_merged", "Relu", 1.0)]
    shares = divide(model, lambda *_: merged, FEEDS, "e")
    assert shares == Shares(linear=0, aggregation=2 / 3, other=1 / 3, latency_ms=3, engine="e")


def fused() -> ir.Model:
    """Return a GraphSAGE layer whose sum and two products are one operator, with an activation."""
    sketch = Sketch()
    x = sketch.features("x", X.shape)
    rowptr, col = (
        sketch.weight(name, array.astype(np.int32)) for name, array in (("p", GRAPH.rowptr), ("c", GRAPH.col))
    )
    first, second, bias = (
        sketch.weight(f"w{place}", normal(shape, place))
        for place, shape in enumerate(((4, CHANNELS), (4, CHANNELS), (4,)))
    )
    out = sketch.op("Relu", [x], X.shape)
    inputs = [out, rowptr, col, None, first, x, second, None, bias]
    sketch.nodes.append(ir.node(schemas.AGGREGATE_LINEAR, inputs, {"reduce": "mean", "activation": "relu"},
                                domain=schemas.DOMAIN, name="both"))  # fmt: skip
    value = sketch.nodes[-1].outputs[0]
    value.shape, value.type = ir.Shape([GRAPH.num_nodes, 4]), ir.TensorType(ir.DataType.FLOAT)
    return sketch.finish(value).model


def test_operators_that_do_both_are_divided_as_they_run_apart() -> None:
    """The halves decide the proportion, the operator itself the time."""
    both = everything_takes({schemas.AGGREGATE_LINEAR: 6.0, "Relu": 2.0, schemas.AGGREGATE: 3.0, schemas.LINEAR: 3.0})
    shares = divide(fused(), both, FEEDS, "e")
    assert shares is not None
    assert shares.linear == pytest.approx(6 / 9 * 6 / 8)
    assert shares.aggregation == pytest.approx(3 / 9 * 6 / 8)
    assert (shares.other, shares.divided, shares.latency_ms) == (0.25, 0.75, 8)


@needs_kernels
def test_halves_compute_the_same() -> None:
    """Taken apart, the operator answers as before."""
    model = fused()
    expected = open_model(model.clone(), 1, FEEDS)()
    assert take_apart(model.graph)
    assert [node.op_type for node in model.graph] == ["Relu", "Aggregate", "Linear", "Linear"]
    ir.passes.common.NameFixPass()(model)
    found = open_model(model, 1, FEEDS)()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)  # type: ignore[index]


def test_what_cannot_be_taken_apart_is_not_divided() -> None:
    """No share is better than one that is made up."""
    model = fused()
    next(node for node in model.graph if node.name == "both").op_type = schemas.NARROW_AGGREGATE_LINEAR
    assert divide(model, everything_takes({}, {"": 1.0}), FEEDS, "e") is None


@pytest.mark.parametrize(
    "target", [OnnxTarget(), pytest.param(OrtTarget(aggregate="native"), marks=needs_kernels)], ids=["onnx", "native"]
)
def test_onnx_runtime_tells_what_operators_take(target: OnnxTarget) -> None:
    """A profile of a real run is divided, and nothing is left of it on disk."""
    dialect = network("sage-mean", GRAPH, X)[0]
    shares = target.shares(dialect, FEEDS, EmitContext(threads=1, time_budget_s=0.5))
    assert shares is not None
    assert shares.latency_ms > 0
    assert min(shares.linear, shares.aggregation) > 0
    assert shares.engine == "onnxruntime"


@pytest.mark.parametrize("portable", [True, False])
def test_openvino_tells_what_operators_take(portable: bool) -> None:
    """Likewise from its own counters."""
    pytest.importorskip("openvino")
    from gnnexport.targets.openvino import OpenVinoTarget

    if not portable and library.why_missing() is not None:
        pytest.skip(str(library.why_missing()))
    dialect = network("sage-mean", GRAPH, X)[0]
    shares = OpenVinoTarget(portable=portable).shares(dialect, FEEDS, EmitContext(threads=1, time_budget_s=0.5))
    assert shares is not None
    assert min(shares.linear, shares.aggregation) > 0
    assert shares.engine == "openvino"
