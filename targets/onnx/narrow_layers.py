"""Let our kernels multiply quantised rows with quantised weights as whole numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.narrow_results import ROWS
from gnnexport.targets.onnx.quantised_layers import QuantisedLayer, quantised_layer
from gnnexport.targets.onnx.quantised_weights import drop_widened, keep_constants, keep_weights
from gnnexport.targets.onnx.quantisers import Quantiser, drop_quantiser
from gnnexport.targets.onnx.tape import Constants

_BIAS = 12
"""Where `NarrowLinear` takes its bias."""


def narrow_layers(graph: ir.Graph) -> dict[str, str]:
    """Rewrite linear layers of quantised rows and weights in place.

    Returns:
        The arithmetic of operands that nothing else reads, by name.
    """
    constants = Constants(graph)
    found = {}
    for node in list(graph):
        layer = quantised_layer(node)
        if layer is not None and not layer.rows.dynamic:
            weight = node.inputs[1]
            _rewrite(graph, constants, layer)
            drop_widened(graph, weight)
            if drop_quantiser(graph, layer.rows):
                found[layer.rows.name] = "u8xs8"
    return found


def _entries(constants: Constants, rows: Quantiser) -> tuple[ir.Value, ir.Value]:
    """Return the steps and widths that rows take; groups in the order of their reach, none that is never taken."""
    count = max(len(rows.step), len(rows.bits))
    step, bits = np.resize(rows.step, count), np.resize(rows.bits, count).astype(np.uint8)
    if rows.by == "nearest":
        chosen = rows.groups()[1]
        step, bits = step[chosen], bits[chosen]
    return keep_constants(constants, step), keep_constants(constants, bits)


def _rewrite(graph: ir.Graph, constants: Constants, layer: QuantisedLayer) -> None:
    by_row = layer.weight.by_row
    assert by_row is not None
    step, bits = _entries(constants, layer.rows)
    step.meta[ROWS] = layer.rows.name
    matrix = keep_weights(constants, layer.weight.levels, layer.weight.names)
    inputs: list[ir.Value | None] = [layer.rows.x, step, bits, matrix, keep_constants(constants, by_row)]
    if layer.bias is not None:
        inputs += [*[None] * (_BIAS - len(inputs)), layer.bias]
    attributes = {"signed": int(layer.rows.signed), "nearest": int(layer.rows.by == "nearest")}
    node = layer.node
    new = ir.node(schemas.NARROW_LINEAR, inputs, attributes, domain=schemas.DOMAIN, name=f"{node.name}_narrow")
    old, out = node.outputs[0], new.outputs[0]
    out.name, out.shape, out.type = f"{old.name}_product", old.shape, old.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [old], [out])
