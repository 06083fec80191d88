"""Products are timed with zeros in their weights before any are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from gnnexport.measure.amdahl import ProductShape
from gnnexport.measure.sparse_speed import Setting
from gnnexport.native import library
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx import product_speeds, schemas, sparse_products
from gnnexport.targets.onnx.product_speeds import time_products
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.openvino import OpenVinoTarget
from gnnexport.targets.ort import OrtTarget
from tests.targets.networks import CHANNELS, network
from tests.targets.test_shares import FEEDS, GRAPH, X

pytestmark = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")

SHAPE = ProductShape(rows=1000, inputs=64, outputs=48)
TIMES = {"dense": 4.0, "engine": 3.0, "sparse": 2.0, "blocks": 1.0}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, NDArray[Any]]]:
    """Let each layout take a time of its own; return the weights of each that was opened."""
    opened: list[dict[str, NDArray[Any]]] = []

    def time(runs: Mapping[str, Callable[[], object]], budget_s: float) -> tuple[dict[str, float], float]:
        opened.append({name: run() for name, run in runs.items()})  # type: ignore[misc]
        return {name: TIMES[name] for name in runs}, 0.0

    monkeypatch.setattr(sparse_products, "time_candidates", time)
    return opened


def weights_of(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
    """Stand in for an engine: a run returns the weights of a model of one product."""
    (weights,) = (value.const_value for value in model.graph.initializers.values())
    assert weights is not None
    array = weights.numpy()
    return lambda: array


@pytest.mark.parametrize(
    ("setting", "layouts", "speed"),
    [
        (Setting("unstructured", 0.9), ("dense", "sparse"), 2.0),
        (Setting("16x1", 0.9), ("dense", "sparse", "blocks"), 4.0),
        (Setting("2:4", 0.5), ("dense", "sparse"), 2.0),
        (Setting("unstructured", 0.3), ("dense",), 1.0),
    ],
    ids=str,
)
def test_every_layout_that_leaves_out_enough_is_timed(
    setting: Setting, layouts: tuple[str, ...], speed: float, seen: list[dict[str, NDArray[Any]]]
) -> None:
    """The fastest counts, on weights that look as asked."""
    (found,) = time_products([SHAPE], setting, weights_of, 0, 1.0)
    assert (found.product, found.dense_ms, found.speed) == (SHAPE, 4.0, speed)
    assert seen[0].keys() == set(layouts)
    weights = seen[0]["dense"]
    assert weights.shape == (48, 64)
    assert (weights == 0).mean() == pytest.approx(setting.sparsity, abs=0.01)
    if setting.pattern == "2:4":
        assert np.count_nonzero(weights.reshape(48, 16, 4), axis=2).max() == 2


def test_a_product_of_the_engine_is_what_kernels_compete_with(seen: list[dict[str, NDArray[Any]]]) -> None:
    """Where the runtime multiplies as long as nothing is zero, its time is the one to beat."""
    shape = ProductShape(1000, 64, 48, by_kernels=False)
    (found,) = time_products([shape], Setting("unstructured", 0.9), weights_of, 0, 1.0)
    assert (found.dense_ms, found.speed) == (3.0, 1.5)


def test_few_rows_stand_for_many(seen: list[dict[str, NDArray[Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are those of all rows; products of the least work are left out."""
    monkeypatch.setattr(sparse_products, "MOST_NUMBERS", 64 * 100)
    monkeypatch.setattr(product_speeds, "MOST_TIMED", 1)
    found = time_products([ProductShape(10, 64, 48), SHAPE], Setting("16x1", 0.9), weights_of, 0, 1.0)
    assert [(item.product, item.dense_ms) for item in found] == [(SHAPE, 40.0)]


@pytest.fixture
def small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small matrices be worth a choice."""
    monkeypatch.setattr(product_speeds, "FEWEST", 1)


@pytest.mark.usefixtures("small_weights")
@pytest.mark.parametrize("target", [OrtTarget(aggregate="native"), OpenVinoTarget(aggregate="native")], ids=str)
@pytest.mark.parametrize("name", ["gcn", "sage-mean", "gat"])
def test_the_products_of_a_model_are_found(name: str, target: OnnxTarget) -> None:
    """As many as it has matrices, with rows for all nodes, and a real run of each gives a time."""
    if target.name == "openvino":
        pytest.importorskip("openvino")
    ctx = EmitContext(threads=1, time_budget_s=0.2)
    shares = target.shares(network(name, GRAPH, X)[0], FEEDS, ctx)
    assert shares is not None
    model, _ = target.lowered(network(name, GRAPH, X)[0], ctx)
    products = [node for node in model.graph if node.op_type in ("MatMul", "Gemm", schemas.LINEAR)]
    both = [node for node in model.graph if node.op_type == schemas.AGGREGATE_LINEAR]
    own = [node for node in both if len(node.inputs) > 6 and node.inputs[6] is not None]
    assert sum(item.count for item in shares.products) == len(products) + len(both) + len(own)
    assert {item.rows for item in shares.products} == {GRAPH.num_nodes}
    assert CHANNELS in {item.inputs for item in shares.products}
    timed = target.time_products(shares.products, Setting("16x1", 0.9), ctx)
    assert {item.product for item in timed} <= set(shares.products)
    assert all(item.dense_ms > 0 and item.speed > 0 for item in timed)


@pytest.mark.usefixtures("small_weights")
@pytest.mark.parametrize("target", [OnnxTarget(), OrtTarget(portable=True)], ids=["onnx", "portable"])
def test_without_kernels_no_product_skips_zeros(target: OnnxTarget) -> None:
    """Standard operators multiply every number."""
    shares = target.shares(network("gcn", GRAPH, X)[0], FEEDS, EmitContext(threads=1, time_budget_s=0.2))
    assert shares is not None
    assert shares.products == ()
