"""Reductions over no edges at all: what they give is known."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gnnexport.targets.onnx.lower import REDUCING
from gnnexport.targets.onnx.operators import dialect_nodes
from gnnexport.targets.onnx.tape import Constants, Tape, sizes


def fill_empty(graph: ir.Graph) -> None:
    """Replace each reduction over a structure without slots by its result, in place; the structure has to be baked.

    OpenVINO takes constants without elements for single numbers, and does not run an operator that reads nothing.
    """
    constants = Constants(graph)
    for node in dialect_nodes(graph):
        rowptr = node.inputs[1] if node.op_type in REDUCING else None
        if rowptr is not None and rowptr.const_value is not None and rowptr.const_value.numpy()[-1] == 0:
            _fill(graph, node, Tape(constants, f"{node.name}_empty"))


def _fill(graph: ir.Graph, node: ir.Node, tape: Tape) -> None:
    out = node.outputs[0]
    shape = sizes(out)
    value = tape.empty_rows(out, (1,) * len(shape), node.attributes.get_string("reduce", "sum"))
    filled = tape.like("Expand", [value, np.array(shape, np.int64)], shape)
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [out], [filled])
