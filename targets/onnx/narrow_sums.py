"""Let our kernels sum quantised rows as the whole numbers that they are, packed four or eight bits wide."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.quantised_weights import keep_constants
from gnnexport.targets.onnx.quantisers import Quantiser, drop_quantiser, quantise_nodes, read_quantiser
from gnnexport.targets.onnx.tape import Constants

WIDTHS = (4, 8)
"""Bits of a number in a packed row."""

_REDUCES = ("sum", "mean", "max", "min")


def narrow_sums(graph: ir.Graph) -> dict[str, str]:
    """Rewrite reductions of quantised columns in place.

    Returns:
        The arithmetic of operands that nothing else reads, by name.
    """
    constants = Constants(graph)
    found = {}
    for node in quantise_nodes(graph):
        quantiser = read_quantiser(node)
        readers = [use.node for use in node.outputs[0].uses() if _reduces(use.node, use.idx)]
        if readers and fits(quantiser):
            narrow = _narrow(graph, constants, quantiser)
            for reader in readers:
                _rewrite(graph, constants, quantiser, reader, narrow)
            if drop_quantiser(graph, quantiser):
                found[quantiser.name] = f"u{quantiser.widest} sums"
    return found


def fits(quantiser: Quantiser) -> bool:
    """Tell whether a quantiser gives matrices whose columns have steps of their own and one width that packs."""
    shape = quantiser.x.shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        return False
    shared = quantiser.by == "columns" or quantiser.single
    return shared and len(quantiser.bits) == 1 and quantiser.widest in WIDTHS


def packed_width(columns: int, bits: int) -> int:
    """Return the bytes of a packed row."""
    return columns if bits == 8 else (columns + 1) // 2


def _reduces(node: ir.Node, place: int) -> bool:
    if node.domain != schemas.DOMAIN or node.op_type != schemas.AGGREGATE or place != 0:
        return False
    weight = node.inputs[3] if len(node.inputs) > 3 else None
    plain = weight is None or (weight.shape is not None and len(weight.shape) == 1)
    return plain and node.attributes.get_string("reduce", "") in _REDUCES


def _columns(quantiser: Quantiser) -> int:
    assert quantiser.x.shape is not None
    columns = quantiser.x.shape[1]
    assert isinstance(columns, int)
    return columns


def _steps(constants: Constants, quantiser: Quantiser) -> ir.Value:
    """Return the step of each column."""
    return keep_constants(constants, np.resize(quantiser.step, _columns(quantiser)))


def _width(quantiser: Quantiser) -> dict[str, int]:
    bits = quantiser.widest
    return {"bits": bits, "zero": 1 << (bits - 1) if quantiser.signed else 0}


def _narrow(graph: ir.Graph, constants: Constants, quantiser: Quantiser) -> ir.Value:
    """Put what packs rows in front of those that read them."""
    assert quantiser.x.shape is not None
    inputs = [quantiser.x, _steps(constants, quantiser)]
    node = ir.node(
        schemas.NARROW, inputs, _width(quantiser), domain=schemas.DOMAIN, name=f"{quantiser.node.name}_narrow"
    )
    out = node.outputs[0]
    out.name = f"{quantiser.out.name}_narrow"
    out.shape = ir.Shape([quantiser.x.shape[0], packed_width(_columns(quantiser), quantiser.widest)])
    out.type = ir.TensorType(ir.DataType.UINT8)
    graph.insert_after(quantiser.node, node)
    return out


def _rewrite(graph: ir.Graph, constants: Constants, quantiser: Quantiser, reader: ir.Node, narrow: ir.Value) -> None:
    """Let one reduction read packed rows."""
    weight = reader.inputs[3] if len(reader.inputs) > 3 else None
    inputs = [narrow, *reader.inputs[1:3], _steps(constants, quantiser), weight]
    attributes: dict[str, str | int] = {"reduce": reader.attributes.get_string("reduce", ""), **_width(quantiser)}
    new = ir.node(schemas.NARROW_AGGREGATE, inputs, attributes, domain=schemas.DOMAIN, name=f"{reader.name}_narrow")
    out = reader.outputs[0]
    new.outputs[0].name, new.outputs[0].shape, new.outputs[0].type = f"{out.name}_sums", out.shape, out.type
    ir.convenience.replace_nodes_and_values(graph, reader, [reader], [new], [out], new.outputs)
