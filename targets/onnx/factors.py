"""Turn constant edge weights that are a product of one number per destination and one per source into row scales.

GCN's normalisation is such a product. Scaling rows before and after a plain sum moves one row per node instead of
one weight per edge, and plain sums are what the tables do fastest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.operators import Operator, dialect_nodes, read
from gnnexport.targets.onnx.tape import Constants, Tape, sizes

TOLERANCE = 1e-6
"""Largest relative error of a factorised weight."""

LARGEST = 1e4
"""Largest factor, and inverse of the smallest: any weights on a tree factorise, but into numbers that overflow."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def scale_rows(graph: ir.Graph, constants: Constants) -> int:
    """Rewrite every weighted sum whose weights factorise; returns how many."""
    known: dict[tuple[int, int, int], tuple[Floats, Floats] | None] = {}
    rewritten = 0
    for node in dialect_nodes(graph):
        if node.op_type != schemas.AGGREGATE:
            continue
        op = read(node)
        if op.static_weight is None or op.static_weight.ndim != 1 or op.reduce != "sum":
            continue
        key = (id(node.inputs[1]), id(node.inputs[2]), id(node.inputs[3]))
        if key not in known:
            assert op.rowptr is not None
            assert op.col is not None
            known[key] = factorise(op.rows_of_slots, op.col, op.static_weight, len(op.rowptr) - 1, sizes(op.x)[0])
        factors = known[key]
        if factors is not None:
            _rewrite(graph, constants, op, *factors)
            rewritten += 1
    return rewritten


def _rewrite(graph: ir.Graph, constants: Constants, op: Operator, of_row: Floats, of_source: Floats) -> None:
    tape = Tape(constants, f"{op.out.name}_scaled")
    shape, dtype = sizes(op.out), op.x.dtype
    assert dtype is not None
    trailing = (1,) * (len(shape) - 1)
    x = op.x
    if not np.all(of_source == 1):
        x = tape.like("Mul", [x, of_source.astype(dtype.numpy()).reshape(-1, *trailing)], sizes(x))
    inputs = [x, op.node.inputs[1], op.node.inputs[2]]
    total = ir.Value(name=f"{op.out.name}_sum", shape=ir.Shape(shape), type=op.out.type)
    tape.nodes.append(
        ir.node(schemas.AGGREGATE, inputs, {"reduce": "sum"}, domain=schemas.DOMAIN, outputs=[total], name=total.name)
    )
    out = total
    if not np.all(of_row == 1):
        out = tape.like("Mul", [total, of_row.astype(dtype.numpy()).reshape(-1, *trailing)], shape)
    ir.convenience.replace_nodes_and_values(graph, op.node, [op.node], tape.nodes, [op.out], [out])


def factorise(
    row: Ints, col: Ints, weight: NDArray[Any], num_rows: int, num_sources: int
) -> tuple[Floats, Floats] | None:
    """Find `a` and `b` with `weight[s] = a[row[s]] * b[col[s]]` for every slot, or `None`.

    Args:
        row: destination of each slot.
        col: source of each slot.
        weight: of each slot; only positive ones are factorised.
        num_rows: number of destinations, the length of `a`.
        num_sources: number of sources, the length of `b`.
    """
    if len(weight) == 0 or not np.all(weight > 0):
        return None
    logs = np.log(weight.astype(np.float64))
    if np.all(logs == logs[0]):
        return np.full(num_rows, float(weight[0])), np.ones(num_sources)
    of_row, of_source = _potentials(row, col, logs, num_rows, num_sources)
    # One round of averaging takes out what rounding added along the paths.
    slots_of_source = np.maximum(np.bincount(col, minlength=num_sources), 1)
    of_source += np.bincount(col, logs - of_row[row] - of_source[col], num_sources) / slots_of_source
    slots_of_row = np.maximum(np.bincount(row, minlength=num_rows), 1)
    of_row += np.bincount(row, logs - of_row[row] - of_source[col], num_rows) / slots_of_row
    error = np.abs(np.expm1(of_row[row] + of_source[col] - logs)).max()
    extreme = max(np.abs(of_row).max(), np.abs(of_source).max())
    if error > TOLERANCE or extreme > np.log(LARGEST):
        return None
    return np.exp(of_row), np.exp(of_source)


def _potentials(row: Ints, col: Ints, logs: Floats, num_rows: int, num_sources: int) -> tuple[Floats, Floats]:
    """Follow a spanning forest of the bipartite graph of destinations and sources; each tree starts at zero."""
    root = num_rows + num_sources
    edges, first = np.unique(row * num_sources + col, return_index=True)
    tails, heads = edges // num_sources, num_rows + edges % num_sources
    bipartite = coo_array((np.ones(len(edges), np.int8), (tails, heads)), shape=(root, root))
    _, component = connected_components(bipartite, directed=False)
    starts = np.unique(component, return_index=True)[1]
    rooted = coo_array(
        (
            np.ones(len(edges) + len(starts), np.int8),
            (np.append(tails, np.full(len(starts), root)), np.append(heads, starts)),
        ),
        shape=(root + 1, root + 1),
    ).tocsr()
    _, parent = breadth_first_order(rooted, root, directed=False)
    parent[root] = root
    child = np.flatnonzero((parent != root) & (np.arange(root + 1) != root))
    up = parent[child]
    slot = first[np.searchsorted(edges, np.minimum(child, up) * num_sources + np.maximum(child, up) - num_rows)]
    # With the sign of sources turned, a step adds the logarithm on the way to a row and takes it away on the way back.
    total = np.zeros(root + 1)
    total[child] = np.where(child < num_rows, logs[slot], -logs[slot])
    ancestor = parent.astype(np.int64)
    while np.any(ancestor != root):
        total += total[ancestor]
        ancestor = ancestor[ancestor]
    return total[:num_rows], -total[num_rows:root]
