"""Replace the dialect's operators by standard ones, each in the lowering chosen for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.dense import lower_dense
from gnnexport.targets.onnx.ell import BLOCK_BYTES, lower_ell
from gnnexport.targets.onnx.factors import scale_rows
from gnnexport.targets.onnx.operators import Operator, dialect_nodes, read
from gnnexport.targets.onnx.order import inverse, renumber
from gnnexport.targets.onnx.pieces import Pieces, cut
from gnnexport.targets.onnx.scatter import lower_scatter
from gnnexport.targets.onnx.tape import Constants, Tape, sizes

REDUCING = (schemas.AGGREGATE, schemas.REDUCE_EDGES)


def lower(
    graph: ir.Graph, choose: Callable[[Operator], str], note: Callable[[str], None], block_bytes: int = BLOCK_BYTES
) -> None:
    """Lower every operator of the dialect in place.

    Args:
        graph: baked, without `EdgeSoftmax`.
        choose: names the lowering of an operator that reduces: `ell`, `dense` or `scatter`.
        note: takes one line for the report.
        block_bytes: of gathered rows at a time, in tables.
    """
    constants = Constants(graph)
    scaled = scale_rows(graph, constants)
    if scaled:
        note(f"folded the edge weights of {scaled} sums into row scales")
    nodes = dialect_nodes(graph)
    chosen = {node: choose(read(node)) for node in nodes if node.op_type in REDUCING}
    frames = renumber(graph, constants, note) if "ell" in chosen.values() else {}
    cuts: dict[bytes, Pieces] = {}
    for node in nodes:
        op = frames[node].apply(read(node)) if node in frames else read(node)
        tape = Tape(constants, str(op.out.name))
        result = lower_one(op, chosen[node], tape, cuts, block_bytes) if node in chosen else _gather(op, tape)
        replace(graph, op, tape, result)


def lower_one(
    op: Operator, lowering: str, tape: Tape, cuts: dict[bytes, Pieces], block_bytes: int = BLOCK_BYTES
) -> ir.Value:
    """Record the operators that compute one reduction, rows in their own order; `cuts` remembers structures."""
    if lowering == "dense":
        return lower_dense(op, tape)
    if lowering == "scatter":
        return lower_scatter(op, tape)
    pieces = _pieces(op, cuts)
    rows = lower_ell(op, pieces, tape, block_bytes)
    if (pieces.order == np.arange(len(pieces.order))).all():
        return rows
    back = inverse(pieces.order)
    return tape.like("Gather", [rows, back.astype(np.int32)], sizes(op.out), axis=0)


def replace(graph: ir.Graph, op: Operator, tape: Tape, result: ir.Value) -> None:
    """Put the recorded nodes in the place of an operator."""
    node = op.node
    if not tape.nodes:
        result = tape.like("Identity", [result], sizes(op.out))
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [op.out], [result])


def _pieces(op: Operator, cuts: dict[bytes, Pieces]) -> Pieces:
    assert op.rowptr is not None
    key = op.rowptr.tobytes()
    if key not in cuts:
        cuts[key] = cut(op.rowptr)
    return cuts[key]


def _gather(op: Operator, tape: Tape) -> ir.Value:
    """Take node values to the edges: by source, or by destination."""
    index = op.rows_of_slots if op.col is None else op.col
    rows = op.by_position(index).astype(np.int32)
    return tape.like("Gather", [op.x, rows], (len(index), *op.tail), axis=0)
