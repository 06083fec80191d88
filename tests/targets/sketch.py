"""Models in the dialect, put together by hand, and numpy's answer to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from gnnexport.runtime.ort import offer_kernels
from gnnexport.targets.contract import DialectModel
from gnnexport.targets.onnx import schemas
from tests.targets.graphs import Csr

Array = NDArray[Any]
_DIALECT = (
    schemas.AGGREGATE,
    schemas.REDUCE_EDGES,
    schemas.EDGE_SOFTMAX,
    schemas.GATHER_SOURCE,
    schemas.GATHER_DESTINATION,
)


class Sketch:
    """Collect inputs, weights and nodes of one model."""

    def __init__(self) -> None:
        self.inputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.weights: list[ir.Value] = []
        self.arrays: dict[str, Array] = {}

    def features(self, name: str, shape: Sequence[int]) -> ir.Value:
        """Add an input that stays one."""
        self.inputs.append(_value(name, shape, ir.DataType.FLOAT))
        return self.inputs[-1]

    def structure(self, name: str, array: Array) -> ir.Value:
        """Add an input that is baked."""
        self.arrays[name] = array
        self.inputs.append(_value(name, array.shape, ir.DataType.from_numpy(array.dtype)))
        return self.inputs[-1]

    def weight(self, name: str, array: Array) -> ir.Value:
        """Add an initialiser."""
        value = _value(name, array.shape, ir.DataType.from_numpy(array.dtype))
        value.const_value = ir.Tensor(array, name=name)
        self.weights.append(value)
        return value

    def op(self, kind: str, inputs: Sequence[ir.Value], shape: Sequence[int], **attributes: Any) -> ir.Value:
        """Add a node with one output."""
        domain = schemas.DOMAIN if kind in _DIALECT else ""
        out = _value(f"v{len(self.nodes)}", shape, ir.DataType.FLOAT)
        self.nodes.append(
            ir.node(kind, list(inputs), attributes, domain=domain, outputs=[out], name=f"n{len(self.nodes)}")
        )
        return out

    def finish(self, out: ir.Value) -> DialectModel:
        """Return the model whose output, named `logits`, this is."""
        out.name = "logits"
        opsets = {"": 20, schemas.DOMAIN: schemas.VERSION}
        graph = ir.Graph(
            self.inputs, [out], nodes=self.nodes, initializers=self.weights, name="g", opset_imports=opsets
        )
        return DialectModel(ir.Model(graph, ir_version=10), self.arrays)


def reduce(graph: Csr, messages: Array, kind: str) -> Array:
    """Reduce messages [num_edges, ...] to nodes; nodes without edges get zero, or one where factors are multiplied."""
    out = np.full((graph.num_nodes, *messages.shape[1:]), float(kind == "prod"))
    for node in range(graph.num_nodes):
        slots = messages[graph.rowptr[node] : graph.rowptr[node + 1]].astype(np.float64)
        if len(slots):
            out[node] = getattr(slots, kind)(axis=0)
    return out


def softmax(graph: Csr, logits: Array) -> Array:
    """Return the softmax of [num_edges, ...] over the slots of each node."""
    out = np.zeros_like(logits, dtype=np.float64)
    for node in range(graph.num_nodes):
        inside = slice(graph.rowptr[node], graph.rowptr[node + 1])
        if len(logits[inside]):
            raised = np.exp(logits[inside] - logits[inside].max(axis=0))
            out[inside] = raised / raised.sum(axis=0)
    return out


def run(path: str | bytes, feeds: dict[str, Array]) -> Array:
    """Run a model file, or its bytes, in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    offer_kernels(options)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def normal(shape: Sequence[int], seed: int = 0) -> Array:
    """Return float32 noise."""
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32)


def _value(name: str, shape: Sequence[int], dtype: ir.DataType) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(list(shape)), type=ir.TensorType(dtype))
