"""Numbers of 16 bits in a model: weights that are stored so, and rows that our own kernels gather so."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.program.halves import FEWEST
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.matching import is_constant, producer
from gnnexport.targets.onnx.operators import dialect_nodes
from gnnexport.targets.onnx.tape import OF_GRAPH

_HALVES = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)
_ROUNDS = {ir.DataType.BFLOAT16: schemas.ROUND_BFLOAT16, ir.DataType.FLOAT16: schemas.ROUND_FLOAT16}
_GATHERS = (schemas.AGGREGATE, schemas.AGGREGATE_LINEAR)

HALF_OF = "gnnexport.half_of"
"""Key of `Value.meta` of weights that are stored in 16 bits: what they were called before."""


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
        given.meta.update({**value.meta, HALF_OF: name})
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
        if node.op_type not in _GATHERS:
            continue
        wide = producer(node.inputs[0], "Cast")
        narrow = producer(wide.inputs[0], "Cast") if wide is not None else None
        if narrow is not None and _to_half(narrow):
            node.replace_input_with(0, narrow.outputs[0])
            changed += 1
    return changed


def round_rows(graph: ir.Graph) -> int:
    """Let the kernels round the float32 rows that they gather in 16 bits, in place: to the bits that `Cast` gives.

    Returns:
        How many values they round now.
    """
    gathered = dict.fromkeys(node.inputs[0] for node in dialect_nodes(graph) if node.op_type in _GATHERS)
    changed = 0
    for value in gathered:
        node = producer(value, "Cast")
        half, x = _to_half(node), None if node is None else node.inputs[0]
        if node is None or half is None or x is None or x.dtype != ir.DataType.FLOAT or is_constant(x):
            continue
        new = ir.node(_ROUNDS[half], [x], domain=schemas.DOMAIN, name=node.name)
        new.outputs[0].shape, new.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
        changed += 1
    return changed


def gathered_halves(graph: ir.Graph) -> tuple[bool, ...]:
    """Tell of each value that is rounded to 16 bits, in order, whether all that reads it gathers rows of 16 bits."""
    rounded = [node for node in graph if _to_half(node) or node.op_type in _ROUNDS.values()]
    return tuple(all(use.node.op_type in _GATHERS for use in node.outputs[0].uses()) for node in rounded)


def _to_half(node: ir.Node | None) -> ir.DataType | None:
    """Return the type of 16 bits that a `Cast` rounds to."""
    to = 0 if node is None or node.op_type != "Cast" else node.attributes.get_int("to", 0)
    return ir.DataType(to) if to in _HALVES else None
