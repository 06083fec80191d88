"""Find linear layers of which both the rows and the weights are quantised."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from gnnexport.targets.onnx.matching import is_constant
from gnnexport.targets.onnx.quantised_weights import QuantisedWeight, weight_of
from gnnexport.targets.onnx.quantisers import Quantiser, quantiser_of

DEEPEST = 1 << 16
"""Products that a sum in 32 bits holds for certain: each is at most 255 times 127."""


@dataclass(frozen=True)
class QuantisedLayer:
    """A product of quantised rows with quantised weights.

    Args:
        node: `Gemm` or `MatMul`.
        rows: quantiser of the rows.
        weight: with a row for each output.
        bias: constant row that is added, or `None`.
    """

    node: ir.Node
    rows: Quantiser
    weight: QuantisedWeight
    bias: ir.Value | None


def quantised_layer(node: ir.Node) -> QuantisedLayer | None:
    """Return the layer that a node is, if it is one of whole numbers."""
    if node.domain != "" or node.op_type not in ("Gemm", "MatMul"):
        return None
    x, matrix = node.inputs[:2]
    rows, weight = quantiser_of(x), weight_of(matrix)
    if rows is None or weight is None or rows.x.shape is None or len(rows.x.shape) != 2:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Gemm":
        plain = node.attributes.get_float("alpha", 1.0) == 1.0 and node.attributes.get_float("beta", 1.0) == 1.0
        if not plain or node.attributes.get_int("transA", 0) == 1 or not _is_row(bias, node.outputs[0]):
            return None
    stands = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    weight = weight if stands else weight.turned
    if rows.by == "columns" and not rows.single:
        return None
    if weight.by_row is None or weight.levels.shape[1] > DEEPEST:
        return None
    return QuantisedLayer(node, rows, weight, bias)


def _is_row(bias: ir.Value | None, out: ir.Value) -> bool:
    return bias is None or (is_constant(bias) and list(bias.shape or ()) == list(out.shape or ())[1:])
