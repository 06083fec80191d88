"""Find the weights that the sparse tensor cores of a GPU can multiply: of four inputs in a row at most two count."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

GROUP, MOST = 4, 2


def two_of_four(graph: ir.Graph) -> int:
    """Count the products of a graph whose constant weights have that pattern and zeros in half of all places."""
    return sum(_fits(weights) for node in graph if (weights := _weights(node)) is not None)


def _weights(node: ir.Node) -> NDArray[Any] | None:
    """Return the constant matrix that a product multiplies with, [inputs, outputs]."""
    if node.op_type not in ("MatMul", "Gemm") or len(node.inputs) < 2 or node.inputs[1] is None:
        return None
    constant = ir.convenience.get_const_tensor(node.inputs[1])
    if constant is None or len(constant.shape) != 2:
        return None
    values = constant.numpy()
    return values.T if node.attributes.get_int("transB", 0) else values


def _fits(weights: NDArray[Any]) -> bool:
    inputs, outputs = weights.shape
    if inputs % GROUP or not outputs:
        return False
    left = np.count_nonzero(weights.reshape(inputs // GROUP, GROUP, outputs), axis=1)
    return bool((left <= MOST).all())
