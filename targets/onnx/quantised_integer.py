"""Multiply quantised rows with quantised weights as whole numbers, in standard operators.

Rows are unsigned bytes, signed ones around a zero point: that is what processors multiply fast. Where two products of
neighbours could overflow 16 bits, as they do silently on processors without instructions of their own for this, the
weights are unsigned bytes as well.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gnnexport.targets.onnx.quantised_layers import QuantisedLayer, quantised_layer
from gnnexport.targets.onnx.quantised_standard import FLOAT, QuantiserTape, Spread, level_of, spread_of
from gnnexport.targets.onnx.quantised_weights import drop_widened, keep_weights
from gnnexport.targets.onnx.quantisers import Quantiser, drop_quantiser
from gnnexport.targets.onnx.tape import Constants

UINT8, INT32 = ir.DataType.UINT8, ir.DataType.INT32

_MOST_PAIR = (1 << 15) - 1


def integer_layers(graph: ir.Graph) -> dict[str, str]:
    """Rewrite linear layers of quantised rows and weights in place.

    Returns:
        The arithmetic of operands that nothing else reads, by name.
    """
    constants = Constants(graph)
    known: dict[ir.Value, tuple[ir.Value, Spread]] = {}
    found = {}
    for node in list(graph):
        layer = quantised_layer(node)
        if layer is not None:
            weight = node.inputs[1]
            arithmetic = _rewrite(graph, constants, layer, known)
            drop_widened(graph, weight)
            if drop_quantiser(graph, layer.rows):
                found[layer.rows.name] = arithmetic
    return found


def zero_of(rows: Quantiser) -> int:
    """Return the byte that stands for zero."""
    return int(rows.top.max(initial=0)) if rows.signed else 0


def _rewrite(
    graph: ir.Graph, constants: Constants, layer: QuantisedLayer, known: dict[ir.Value, tuple[ir.Value, Spread]]
) -> str:
    node, rows = layer.node, layer.rows
    if rows.out not in known:
        known[rows.out] = _bytes_of(graph, constants, rows)
    levels, spread = known[rows.out]
    tape = QuantiserTape(constants, f"{node.outputs[0].name}.whole")
    by_row = layer.weight.by_row
    assert by_row is not None
    largest = zero_of(rows) + int(rows.top.max(initial=0))
    fits = 2 * largest * int(np.abs(layer.weight.levels).max(initial=0)) <= _MOST_PAIR
    stored = layer.weight.levels.T if fits else (layer.weight.levels.T.astype(np.int16) + 128).astype(np.uint8)
    matrix = keep_weights(constants, np.ascontiguousarray(stored), layer.weight.names)
    zeros = [np.array(zero_of(rows), np.uint8), np.array(0, np.int8) if fits else np.array(128, np.uint8)]
    inputs = [levels, matrix, *(tape.constant(zero) for zero in zeros)]
    assert node.outputs[0].shape is not None
    shape = list(node.outputs[0].shape)
    total = tape.record("MatMulInteger", inputs, [INT32], shape)[0]
    value = tape.record("Cast", [total], [FLOAT], shape, to=int(FLOAT))[0]
    steps = [spread.step, by_row] if not rows.single else [rows.step * by_row]
    for step in steps:
        value = tape.record("Mul", [value, tape.constant(step)], [FLOAT], shape)[0]
    if layer.bias is not None:
        value = tape.record("Add", [value, layer.bias], [FLOAT], shape)[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, node.outputs, [value])
    return "u8xs8" if fits else "u8xu8"


def _bytes_of(graph: ir.Graph, constants: Constants, rows: Quantiser) -> tuple[ir.Value, Spread]:
    """Compute the levels of rows as bytes, where their quantiser stands."""
    tape = QuantiserTape(constants, f"{rows.out.name}.bytes")
    spread = spread_of(rows, tape)
    level = level_of(rows, spread, tape, whole=False)
    if rows.signed:
        level = tape.like_x(rows, "Add", level, np.array(np.float32(zero_of(rows))))
    assert rows.x.shape is not None
    found = tape.record("Cast", [level], [UINT8], list(rows.x.shape), to=int(UINT8))[0]
    graph.insert_after(rows.node, tape.nodes)
    return found, spread
