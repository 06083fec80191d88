"""Record new ONNX nodes and constants that are to replace a node of the dialect."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

OF_GRAPH = "gnnexport.structure"
"""Key of `Value.meta` of initialisers that hold the graph rather than weights."""

FOLDED = "gnnexport.folded"
"""Key of `Value.meta` of initialisers that are folded of the graph or its sizes, as what weights make of edge features:
they may be stored as weights are, and are none."""


class Constants:
    """Initialisers added to a graph; equal arrays become one."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._known: dict[bytes, ir.Value] = {}

    def add(self, array: NDArray[Any], *, of_graph: bool = True) -> ir.Value:
        """Return an initialiser that holds an array, which stems from the graph's structure unless told otherwise."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        digest = hashlib.sha256(f"{array.dtype}{array.shape}{of_graph}".encode())
        digest.update(array.data)
        key = digest.digest()
        if key not in self._known:
            kind = "structure" if of_graph else "constant"
            names = (f"{kind}_{i}" for i in itertools.count(len(self._known)))
            name = next(name for name in names if name not in self._graph.initializers)
            value = ir.Value(
                name=name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                const_value=ir.Tensor(array, name=name),
            )
            if of_graph:
                value.meta[OF_GRAPH] = True
            self._graph.register_initializer(value)
            self._known[key] = value
        return self._known[key]


class Tape:
    """Nodes in the order recorded, with the shapes of their outputs."""

    def __init__(self, constants: Constants, prefix: str) -> None:
        self.nodes: list[ir.Node] = []
        self.constants = constants
        self.prefix = prefix

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | NDArray[Any] | None],
        dtype: ir.DataType,
        shape: Sequence[int],
        **attributes: int | float | str | Sequence[int],
    ) -> ir.Value:
        """Record a node with one output and return that output; arrays become initialisers."""
        return self.record(op_type, inputs, [dtype], shape, **attributes)[0]

    def record(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | NDArray[Any] | None],
        dtypes: Sequence[ir.DataType],
        shape: Sequence[int | ir.SymbolicDim] | None = None,
        **attributes: int | float | str | Sequence[int] | ir.Graph,
    ) -> list[ir.Value]:
        """Record a node with an output of each element type, all of one shape, or of a shape that is not known."""
        values = [self.constants.add(item) if isinstance(item, np.ndarray) else item for item in inputs]
        name = f"{self.prefix}_{len(self.nodes)}"
        outputs = [
            ir.Value(
                name=name if len(dtypes) == 1 else f"{name}_{place}",
                shape=None if shape is None else ir.Shape(shape),
                type=ir.TensorType(dtype),
            )
            for place, dtype in enumerate(dtypes)
        ]
        self.nodes.append(ir.node(op_type, values, attributes, outputs=outputs, name=f"{name}_{op_type}"))
        return outputs

    def like(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | NDArray[Any] | None],
        shape: Sequence[int],
        **attributes: int | float | str | Sequence[int],
    ) -> ir.Value:
        """Record a node whose output has the element type of its first input."""
        first = inputs[0]
        assert isinstance(first, ir.Value)
        assert first.dtype is not None
        return self.op(op_type, inputs, first.dtype, shape, **attributes)

    def concat(self, parts: Sequence[ir.Value]) -> ir.Value:
        """Join values along their rows; a single one is itself."""
        if len(parts) == 1:
            return parts[0]
        shapes = [sizes(part) for part in parts]
        return self.like("Concat", parts, (sum(shape[0] for shape in shapes), *shapes[0][1:]), axis=0)

    def zeros(self, like: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Return a constant of zeros with the element type of a value."""
        assert like.dtype is not None
        return self.constants.add(np.zeros(tuple(shape), like.dtype.numpy()))

    def empty_rows(self, like: ir.Value, shape: Sequence[int], reduce: str) -> ir.Value:
        """Return what rows without slots give: zeros, and ones for a product."""
        assert like.dtype is not None
        return self.constants.add(np.full(tuple(shape), reduce == "prod", like.dtype.numpy()))


def sizes(value: ir.Value) -> tuple[int, ...]:
    """Return the shape of a value of which every size is known."""
    assert value.shape is not None, value.name
    assert all(isinstance(size, int) for size in value.shape), value
    return tuple(int(size) for size in value.shape)  # type: ignore[arg-type]
