"""Weights of pattern 2:4 are found, and the builder of engines is told of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from gnnexport import api
from gnnexport.targets.onnx.sparse_weights import Weight
from gnnexport.targets.trt import engine
from gnnexport.targets.trt.sparsity import left_to_engine, two_of_four
from tests.road import write_road


def product(weights: NDArray[np.float32], op: str = "MatMul", **attributes: int) -> ir.Graph:
    """Return a graph with one product of a row with constant weights."""
    x = ir.val("x", ir.DataType.FLOAT, [1, None])
    held = ir.val("w", const_value=ir.tensor(weights))
    node = ir.node(op, [x, held], attributes)
    return ir.Graph([x], node.outputs, nodes=[node], initializers=[held], opset_imports={"": 20})


def pruned(outputs: int = 6, inputs: int = 8) -> NDArray[np.float32]:
    """Return weights [outputs, inputs] of which the first two of any four inputs count."""
    return np.tile(np.float32([1, 2, 0, 0]), (outputs, inputs // 4))


def test_groups_run_along_the_inputs() -> None:
    """Whichever way the matrix lies; zeros in groups of outputs are another pattern."""
    assert two_of_four(product(np.ascontiguousarray(pruned().T))) == ["w"]
    assert two_of_four(product(pruned(), "Gemm", transB=1)) == ["w"]
    assert two_of_four(product(pruned(8, 8))) == []


def test_one_group_too_full_is_enough() -> None:
    """Three of four anywhere, or inputs that no groups of four fill, and the weights do not fit."""
    weights = pruned().T.copy()
    weights[2, 0] = 1
    assert two_of_four(product(weights)) == []
    assert two_of_four(product(pruned().T[:6].copy())) == []


@pytest.mark.parametrize(("passes", "told"), [("sparsify-weights{pattern=2:4}", True), ("none", False)])
def test_the_builder_is_told(passes: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of pruned weights is built with sparse kernels allowed, any other without."""
    pytest.importorskip("tensorrt_rtx")
    asked = []
    build = engine.build_engine

    def record(*args: object, sparse: bool, **options: object) -> engine.Engine:
        asked.append(sparse)
        return build(*args, sparse=sparse, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("gnnexport.targets.trt.target.build_engine", record)
    model = write_road(tmp_path)
    report = api.compress(model, passes=passes, target="trt", time_budget="2s").report
    assert (True in asked) is told
    assert any("pattern 2:4" in note for note in report.notes) is told
    if told:
        found = report.result.sparsity
        assert found is not None
        assert found.weights_stored is not None
        assert found.weights_stored > 0.3
        assert found.weights_executed is None
        assert {(item.skipped, item.layout) for item in found.weights} <= {(None, "2:4"), (0, "dense")}
        assert (None, "2:4") in {(item.skipped, item.layout) for item in found.weights}


def test_other_zeros_are_not_skipped() -> None:
    """Of matrices that fit nobody knows; all others are stored and not executed."""
    weights = [Weight(name, 8, 4, 32, 32) for name in ("fits", "other")]
    fits, other = left_to_engine(weights, ["fits"])
    assert (fits.skipped, fits.layout) == (None, "2:4")
    assert (other.skipped, other.layout) == (0, "dense")
