"""Numbers of 16 bits in a model: weights that are stored so, and rows that our own kernels gather so."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.program.halves import FEWEST
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.matching import producer
from gnnexport.targets.onnx.operators import dialect_nodes
from gnnexport.targets.onnx.tape import OF_GRAPH

_HALVES = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)


def store_halves(model: ir.Model) -> int:
    """Store weights in 16 bits, in place, where these hold every number exactly, and widen them where they are read.

    A runtime widens constants once, when it loads the model. Nothing that is computed changes by a bit.

    Returns:
        How many initialisers that were.
    """
    graph, stored = model.graph, 0
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        whole = tensor is not None and value.dtype == ir.DataType.FLOAT and tensor.size >= FEWEST
        if not whole or value.meta.get(OF_GRAPH) or value.is_graph_output() or not value.uses():
            continue
        assert tensor is not None
        narrow = _narrowed(tensor.numpy())
        if narrow is None:
            continue
        half = f"{name}_half"
        given = ir.Value(name=half, const_value=ir.tensor(narrow, name=half))
        given.shape, given.type = ir.Shape(narrow.shape), ir.TensorType(ir.DataType.from_numpy(narrow.dtype))
        given.meta.update(value.meta)
        node = ir.node("Cast", [given], {"to": ir.DataType.FLOAT}, name=f"{name}_widened")
        wide = node.outputs[0]
        wide.shape, wide.type = value.shape, value.type
        ir.convenience.replace_all_uses_with(value, wide)
        del graph.initializers[name]
        graph.register_initializer(given)
        graph.insert_before(graph[0], node)
        wide.name = name
        stored += 1
    return stored


def _narrowed(values: NDArray[Any]) -> NDArray[Any] | None:
    """Return the same numbers in 16 bits, if there is a type that holds them all."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    for dtype in _HALVES:
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = values.astype(dtype.numpy())
        if np.array_equal(np.ascontiguousarray(narrow.astype(np.float32)).view(np.uint32), bits):
            return narrow
    return None


def gather_halves(graph: ir.Graph) -> int:
    """Let the kernels gather rows in the 16 bits that they were rounded to, in place; they add in float32.

    Returns:
        How many reductions read such rows now.
    """
    changed = 0
    for node in dialect_nodes(graph):
        if node.op_type not in (schemas.AGGREGATE, schemas.AGGREGATE_LINEAR):
            continue
        wide = producer(node.inputs[0], "Cast")
        narrow = producer(wide.inputs[0], "Cast") if wide is not None else None
        if narrow is not None and narrow.attributes.get_int("to", 0) in _HALVES:
            node.replace_input_with(0, narrow.outputs[0])
            changed += 1
    return changed


def gathered_halves(graph: ir.Graph) -> tuple[bool, ...]:
    """Tell of each value that is rounded to 16 bits, in order, whether all that reads it gathers rows of 16 bits."""
    rounded = [node for node in graph if node.op_type == "Cast" and node.attributes.get_int("to", 0) in _HALVES]
    reductions = (schemas.AGGREGATE, schemas.AGGREGATE_LINEAR)
    return tuple(all(use.node.op_type in reductions for use in node.outputs[0].uses()) for node in rounded)
