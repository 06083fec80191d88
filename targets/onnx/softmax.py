"""Write the softmax over the slots of a row in the dialect's other operators."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from gnnexport.targets.onnx import schemas


def expand_softmax(graph: ir.Graph) -> None:
    """Replace every `EdgeSoftmax` by the largest, the difference, the exponential and the share of the sum.

    So each lowering knows reductions and gathers only. The largest is subtracted, as everywhere, to keep the
    exponential finite.
    """
    for node in list(graph):
        if node.domain == schemas.DOMAIN and node.op_type == schemas.EDGE_SOFTMAX:
            _expand(graph, node)


def _expand(graph: ir.Graph, node: ir.Node) -> None:
    logits, rowptr = node.inputs
    assert logits is not None
    assert rowptr is not None
    assert logits.shape is not None
    assert rowptr.shape is not None
    name = f"{node.outputs[0].name}.softmax"
    slots = list(logits.shape)
    pointers = rowptr.shape[0]
    rows = [pointers - 1 if isinstance(pointers, int) else None, *slots[1:]]
    nodes: list[ir.Node] = []

    def op(kind: str, inputs: list[ir.Value], shape: list[Any], **attributes: str) -> ir.Value:
        domain = schemas.DOMAIN if kind in (schemas.REDUCE_EDGES, schemas.GATHER_DESTINATION) else ""
        out = ir.Value(name=f"{name}_{len(nodes)}", shape=ir.Shape(shape), type=logits.type)
        nodes.append(
            ir.node(kind, inputs, attributes, domain=domain, outputs=[out], name=f"{name}_{kind}_{len(nodes)}")
        )
        return out

    largest = op(schemas.REDUCE_EDGES, [logits, rowptr], rows, reduce="max")
    shifted = op("Sub", [logits, op(schemas.GATHER_DESTINATION, [largest, rowptr], slots)], slots)
    raised = op("Exp", [shifted], slots)
    total = op(schemas.REDUCE_EDGES, [raised, rowptr], rows, reduce="sum")
    share = op("Div", [raised, op(schemas.GATHER_DESTINATION, [total, rowptr], slots)], slots)
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [node.outputs[0]], [share])
