"""Let one operator do what a model does to the edges of a request before it aggregates over them.

Loops are removed and added, degrees counted, weights normalised, edges sorted: two dozen operators, written in as many
ways. Which of the preparations that the kernel knows a model does is not read off its operators: each is tried on small
graphs that have everything odd a graph can have, and the one that agrees on all of them takes the operators' place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from gnnexport.native import kernels
from gnnexport.program.inputs import NUM_EDGES, NUM_GRAPHS, NUM_NODES, NUM_PAIRS
from gnnexport.runtime.ort import offer_kernels
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.operators import dialect_nodes

Arrays = dict[str, NDArray[Any]]

TOLERANCE = 1e-6
"""Largest relative difference of a weight: the last bits of a root."""

UNKNOWN = -1
_FILLS = (1.0, 2.0)
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class Preparation:
    """What is done to edges; see `gnx_edges`."""

    one_loop: bool
    normalise: bool = False
    fill: float = 1.0
    reads_weight: bool = False

    def run(self, edge_index: NDArray[np.int64], num_nodes: int, weight: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return `rowptr`, `col` and weights."""
        source, destination = (np.ascontiguousarray(ends) for ends in edge_index)
        made: list[NDArray[Any]] = [np.empty(num_nodes + 1, np.int64)]

        def make(num_slots: int) -> tuple[int, int, int]:
            made.extend([np.empty(num_slots, np.int64), np.empty(num_slots, np.float32)])
            return made[0].ctypes.data, made[1].ctypes.data, made[2].ctypes.data

        kernels.prepare_edges(
            source.ctypes.data,
            destination.ctypes.data,
            len(source),
            num_nodes,
            make,
            weight=weight.ctypes.data if self.reads_weight else 0,
            one_loop=self.one_loop,
            fill=self.fill,
            normalise=self.normalise,
            threads=1,
        )
        return made


@dataclass(frozen=True)
class _Structure:
    """What a graph computes of the edges of a request.

    Args:
        csr: sorts them.
        edges: the graph's input that holds them.
        edge_weight: the graph's input that holds their weights, where they count.
        col: source of each slot.
        weight: of each slot, where the aggregations have one that depends on the edges alone.
    """

    csr: ir.Node
    edges: ir.Value
    edge_weight: ir.Value | None
    col: ir.Value
    weight: ir.Value | None

    @property
    def outputs(self) -> list[ir.Value]:
        """What the preparation gives."""
        given = [self.csr.outputs[0], self.col, self.weight]
        return [value for value in given if value is not None]


def fuse_edges(model: ir.Model) -> int:
    """Replace the preparation of edges in a model for graphs of any size, in place; return how many were replaced.

    None are where ONNX Runtime, on which they are tried, is not installed.
    """
    if find_spec("onnxruntime") is None:
        return 0
    fused = 0
    for node in dialect_nodes(model.graph):
        found = _structure(model.graph, node) if node.op_type == schemas.CSR else None
        same = None if found is None else _recognise(model, found)
        if found is not None and same is not None:
            _replace(model.graph, found, same)
            fused += 1
    passes.RemoveUnusedNodesPass()(model)
    return fused


def _structure(graph: ir.Graph, csr: ir.Node) -> _Structure | None:
    """Return what belongs to one sort of edges, if nothing but `rowptr`, `col` and one set of weights is read of it."""
    users = [use.node for use in csr.outputs[0].uses() if use.node.domain == schemas.DOMAIN]
    cols = {node.inputs[2] for node in users if node.op_type == schemas.AGGREGATE}
    if len(cols) != 1:
        return None
    (col,) = cols
    assert col is not None
    weights = {node.inputs[3] for node in users if node.op_type == schemas.AGGREGATE and len(node.inputs) > 3}
    fixed = [value for value in weights if value is not None and _reads(value) is not None]
    if len(fixed) > 1 or (fixed and any(value not in fixed for value in weights)):
        return None
    weight = fixed[0] if fixed else None
    if weight is not None and (weight.shape is None or len(weight.shape) != 1):
        return None
    inputs = set[ir.Value]()
    for value in (csr.outputs[0], col, weight):
        read = set[ir.Value]() if value is None else _reads(value)
        if read is None:
            return None
        inputs |= read
    edges = [value for value in inputs if value.dtype == ir.DataType.INT64]
    floats = [value for value in inputs if value.dtype == ir.DataType.FLOAT]
    if len(edges) != 1 or len(floats) > 1 or len(inputs) != len(edges) + len(floats) or not _is_edge_index(edges[0]):
        return None
    found = _Structure(csr, edges[0], floats[0] if floats else None, col, weight)
    return None if _needed_besides(graph, found) else found


def _is_edge_index(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 2 and value.shape[0] == 2


def _reads(value: ir.Value) -> set[ir.Value] | None:
    """Return the graph inputs whose values a value depends on, not only their sizes; `None` where weights count too."""
    read: set[ir.Value] = set()
    for item in _before([value], stop=()):
        node = item.producer()
        if node is None and item.is_graph_input():
            read.add(item)
        elif node is None and item.const_value is None:
            return None
    return None if any(value.dtype == ir.DataType.FLOAT and len(value.shape or ()) != 1 for value in read) else read


def _before(values: list[ir.Value], stop: tuple[ir.Value, ...]) -> Iterator[ir.Value]:
    """Yield values and all that they are computed from, but not what only sizes are taken of, nor past some values."""
    seen: set[ir.Value] = set()
    left = list(values)
    while left:
        value = left.pop()
        if value in seen:
            continue
        seen.add(value)
        yield value
        node = value.producer()
        if node is not None and node.op_type not in ("Shape", "Size") and value not in stop:
            left.extend(item for item in node.inputs if item is not None)


def _needed_besides(graph: ir.Graph, found: _Structure) -> bool:
    """Tell whether the sort is still needed once its structure comes from elsewhere."""
    kept = _before(list(graph.outputs), stop=tuple(found.outputs))
    return found.csr.outputs[1] in set(kept)


def _recognise(model: ir.Model, found: _Structure) -> Preparation | None:
    """Return the preparation that agrees with the model on every graph tried."""
    answer = _compute(model, found)
    left = list(_candidates(found))
    for edge_index, num_nodes, weight in _graphs():
        expected = answer(edge_index, num_nodes, weight)
        if expected is None:
            return None
        left = [item for item in left if _agree(item.run(edge_index, num_nodes, weight), expected)]
    return left[0] if left else None


def _candidates(found: _Structure) -> Iterator[Preparation]:
    if found.weight is None:
        yield from (Preparation(one_loop) for one_loop in (False, True))
        return
    reads = found.edge_weight is not None
    for one_loop, normalise, fill in itertools.product((False, True), (True, False), _FILLS):
        if one_loop or fill == 1.0:
            yield Preparation(one_loop, normalise, fill, reads)


def _graphs() -> Iterator[tuple[NDArray[np.int64], int, NDArray[np.float32]]]:
    """Yield edges, the number of nodes and weights: none, loops, duplicates, nodes alone, a hub, and plain noise."""
    random = np.random.default_rng(0)
    listed: list[tuple[list[list[int]], int]] = [
        ([[], []], 3),
        ([[0], [0]], 1),
        ([[0, 1, 1, 0, 2, 2], [1, 0, 1, 1, 2, 2]], 5),
        ([[0, 1, 2, 3, 4, 5], [5, 5, 5, 5, 5, 5]], 7),
        ([[3, 3, 3], [1, 1, 1]], 4),
    ]
    listed += [(random.integers(0, count, (2, 4 * count)).tolist(), count) for count in (2, 5, 17, 40)]
    for edges, num_nodes in listed:
        edge_index = np.array(edges, np.int64).reshape(2, -1)
        yield edge_index, num_nodes, random.uniform(0.2, 3.0, edge_index.shape[1]).astype(np.float32)


def _compute(model: ir.Model, found: _Structure) -> Any:
    """Return what runs the model's own preparation; it gives `None` where the model cannot be run so."""
    names = [str(value.name) for value in found.outputs]
    part = model.clone()
    made = {str(value.name): value for node in part.graph for value in node.outputs}
    part.graph.outputs[:] = [made[name] for name in names]
    passes.RemoveUnusedNodesPass()(part)
    part.graph.opset_imports[schemas.DOMAIN] = schemas.VERSION
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = 1
    offer_kernels(options)
    session = onnxruntime.InferenceSession(ir.to_proto(part).SerializeToString(), options)

    def run(edge_index: NDArray[np.int64], num_nodes: int, weight: NDArray[np.float32]) -> list[NDArray[Any]] | None:
        sizes = {NUM_NODES: num_nodes, NUM_EDGES: edge_index.shape[1], NUM_GRAPHS: 1, NUM_PAIRS: 1}
        feeds = _feeds(part, found, sizes, edge_index, weight)
        return None if feeds is None else [np.asarray(array) for array in session.run(names, feeds)]

    return run


def _feeds(
    part: ir.Model,
    found: _Structure,
    sizes: Mapping[str, int],
    edge_index: NDArray[np.int64],
    weight: NDArray[np.float32],
) -> Arrays | None:
    """Return a request: the edges, their weights, and zeros where only sizes count."""
    feeds: Arrays = {}
    for value in part.graph.inputs:
        if value.shape is None or value.dtype is None:
            return None
        shape = [size if isinstance(size, int) else sizes.get(str(size.value), UNKNOWN) for size in value.shape]
        if UNKNOWN in shape:
            return None
        feeds[str(value.name)] = np.zeros(shape, value.dtype.numpy())
    feeds[str(found.edges.name)] = edge_index
    if found.edge_weight is not None:
        feeds[str(found.edge_weight.name)] = weight
    return feeds


def _agree(actual: list[NDArray[Any]], expected: list[NDArray[Any]]) -> bool:
    pairs = list(zip(actual, expected, strict=False))
    return all(left.shape == right.shape and np.allclose(left, right, rtol=TOLERANCE, atol=0) for left, right in pairs)


def _replace(graph: ir.Graph, found: _Structure, same: Preparation) -> None:
    kind = schemas.EDGES if found.weight is None else schemas.WEIGHTED_EDGES
    inputs = [found.edges, found.csr.inputs[1]]
    if same.reads_weight:
        inputs.append(found.edge_weight)
    attributes = {"one_loop": int(same.one_loop), "normalise": int(same.normalise), "fill": same.fill}
    count = len(found.outputs)
    node = ir.node(kind, inputs, attributes, domain=schemas.DOMAIN, num_outputs=count, name=f"{found.csr.name}_edges")
    for new, old in zip(node.outputs, found.outputs, strict=True):
        new.name, new.shape, new.type = f"{old.name}_prepared", old.shape, old.type
    graph.insert_before(found.csr, node)
    for new, old in zip(node.outputs, found.outputs, strict=True):
        ir.convenience.replace_all_uses_with(old, new)
