"""Count the axes of reductions from the front.

ONNX Runtime gives a reduction over a negative axis the wrong shape where the operand is empty: a graph without edges,
a request without pairs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def count_axes_from_front(graph: ir.Graph) -> None:
    """Replace the constant axes of every reduction by what they are without a sign, in place."""
    known: dict[tuple[int, ...], ir.Value] = {}
    for node in graph:
        if not node.op_type.startswith("Reduce") or node.domain or len(node.inputs) < 2:
            continue
        x, axes = node.inputs
        if x is None or x.shape is None or axes is None or axes.const_value is None:
            continue
        found = tuple(int(axis) % len(x.shape) for axis in axes.const_value.numpy().reshape(-1))
        if found not in known:
            name = "axes_" + "_".join(map(str, found))
            array = np.array(found, np.int64)
            known[found] = ir.Value(
                name=name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(ir.DataType.INT64),
                const_value=ir.Tensor(array, name=name),
            )
            graph.register_initializer(known[found])
        node.replace_input_with(1, known[found])
