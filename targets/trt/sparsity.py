"""Find the weights that the sparse tensor cores of a GPU can multiply: of four inputs in a row at most two count."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx.sparse_weights import Weight

GROUP, MOST = 4, 2
PATTERN = f"{MOST}:{GROUP}"


def two_of_four(graph: ir.Graph) -> list[str]:
    """Name the constant matrices of a graph that have that pattern wherever they are multiplied with."""
    fits: dict[str, bool] = {}
    for node in graph:
        weights = _weights(node)
        if weights is not None:
            name = str(node.inputs[1].name)  # type: ignore[union-attr]
            fits[name] = fits.get(name, True) and _fits(weights)
    return [name for name, fitting in fits.items() if fitting]


def left_to_engine(weights: Iterable[Weight], names: Collection[str]) -> tuple[Weight, ...]:
    """Say of matrices that TensorRT may or may not skip their zeros: it does not tell."""
    return tuple(replace(item, skipped=None, layout=PATTERN) if item.name in names else item for item in weights)


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
