"""Structures that hold some of the slots of another one: stored as what stays of it, and written out at load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.operators import dialect_nodes
from gnnexport.targets.onnx.tape import Constants

NODES_BYTES = 7000
"""What the nodes that write one structure out take, about, in the files of OpenVINO; in ONNX they take 800."""

_READERS = (
    schemas.AGGREGATE, schemas.AGGREGATE_LINEAR, schemas.ATTENTION, schemas.NARROW_AGGREGATE,
    schemas.NARROW_AGGREGATE_LINEAR,
)  # fmt: skip
"""Operators of the kernels that read pointers and sources, as their second and third inputs."""

_ROWPTR, _COL = 1, 2

_COUNTS = (np.uint8, np.uint16)
"""What holds the places from one slot that stays to the next."""


@dataclass(frozen=True)
class Structure:
    """A structure in a model.

    Args:
        rowptr: int32 [rows + 1].
        col: int32 [slots].
        values: other constants with a row for each slot, such as weights of edges.
    """

    rowptr: ir.Value
    col: ir.Value
    values: tuple[ir.Value, ...]

    @property
    def slots(self) -> int:
        """How many there are."""
        return len(_array(self.col))

    def keys(self, span: int) -> NDArray[np.int64]:
        """Number each slot by its destination and source, which are less than `span`."""
        rowptr = _array(self.rowptr)
        keys: NDArray[np.int64] = np.repeat(np.arange(len(rowptr) - 1), np.diff(rowptr)) * span + _array(self.col)
        return keys


@dataclass(frozen=True)
class _Written:
    """A structure and what its parts are written out from.

    Args:
        csr: it.
        gaps: places from one of its slots to the next, among those of the whole.
        whole: the smallest structure that has all of its slots.
        pairs: its parts and those of the whole that hold the same numbers at these slots.
    """

    csr: Structure
    gaps: NDArray[Any]
    whole: Structure
    pairs: tuple[tuple[ir.Value, ir.Value], ...]

    @property
    def saved(self) -> int:
        """Bytes less that the file has."""
        parts = (self.csr.rowptr, *(part for part, _ in self.pairs))
        return sum(_array(part).nbytes for part in parts) - self.gaps.nbytes - NODES_BYTES


def share_nested(model: ir.Model) -> int:
    """Store structures by the slots that they have of a larger one where that is smaller, in place.

    Each has a byte, or two, for a slot; standard operators write pointers, sources and weights out from those of the
    larger one, which a runtime does once, when it loads the model. Nothing changes by a bit.

    Returns:
        How many structures that were.
    """
    graph, constants = model.graph, Constants(model.graph)
    found = sorted(_structures(graph), key=lambda item: item.slots)
    written = [item for place, csr in enumerate(found) if (item := _written(csr, found[place + 1 :])) is not None]
    names = {id(value) for csr in found for value in (csr.rowptr, csr.col, *csr.values)}
    stored = 0
    for item in written:
        mine = [item.csr.rowptr, *(part for part, _ in item.pairs)]
        if item.saved > 0 and all(id(value) in names for value in mine):
            names -= {id(value) for value in mine}
            _write_out(graph, constants, item)
            stored += 1
    return stored


def _structures(graph: ir.Graph) -> list[Structure]:
    """List the structures that are known, each once, with all that has a row for each of its slots."""
    found: dict[tuple[ir.Value, ir.Value], dict[ir.Value, None]] = {}
    for node in dialect_nodes(graph):
        if node.op_type not in _READERS:
            continue
        rowptr, col = node.inputs[_ROWPTR], node.inputs[_COL]
        if rowptr is None or col is None or not (_is_int32(rowptr) and _is_int32(col)):
            continue
        values = found.setdefault((rowptr, col), {})
        values.update(dict.fromkeys(_with_rows(node, len(_array(col)))))
    return [Structure(rowptr, col, tuple(values)) for (rowptr, col), values in found.items()]


def _with_rows(node: ir.Node, slots: int) -> Iterator[ir.Value]:
    """Yield constants of a node that have a row for each slot, pointers and sources aside."""
    for value in node.inputs[_COL + 1 :]:
        if value is not None and value.const_value is not None:
            shape = value.const_value.shape
            if len(shape) and shape[0] == slots:
                yield value


def _written(csr: Structure, larger: Sequence[Structure]) -> _Written | None:
    """Return what a structure is written out from; `None` where none of the larger ones has all of its slots."""
    for whole in larger:
        slots = None if whole.slots == csr.slots else places(csr, whole)
        if slots is None:
            continue
        gaps = np.diff(slots, prepend=0)
        counts = next((kind for kind in _COUNTS if gaps.max(initial=0) <= np.iinfo(kind).max), None)
        if counts is not None:
            pairs = [(csr.col, whole.col)]
            for part in csr.values:
                pairs += [(part, value) for value in whole.values if _same(part, value, slots)][:1]
            return _Written(csr, gaps.astype(counts), whole, tuple(pairs))
    return None


def places(csr: Structure, whole: Structure) -> NDArray[np.int64] | None:
    """Return where the slots of a structure are among those of another; `None` where some are not, or in no order."""
    degrees, most = (np.diff(_array(item.rowptr)) for item in (csr, whole))
    if len(degrees) != len(most) or not csr.slots or (degrees > most).any():
        return None
    span = 1 + int(max(_array(csr.col).max(), _array(whole.col).max()))
    keys, candidates = csr.keys(span), whole.keys(span)
    order = np.argsort(candidates, kind="stable")
    ordered = candidates[order]
    found = np.searchsorted(ordered, keys) + _repeats(keys)
    if (found >= len(ordered)).any() or (ordered[found] != keys).any():
        return None
    slots: NDArray[np.int64] = order[found]
    return slots if (np.diff(slots) > 0).all() else _in_order(keys, candidates)


def _in_order(keys: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the first places of keys among candidates that ascend, where several candidates are equal."""
    left = iter(enumerate(candidates.tolist()))
    slots = np.array([next((place for place, other in left if other == key), -1) for key in keys.tolist()])
    return None if (slots < 0).any() else slots


def _repeats(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each key how many equal ones come before it."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    count = np.empty_like(keys)
    count[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered)
    return count


def _same(part: ir.Value, whole: ir.Value, slots: NDArray[np.int64]) -> bool:
    """Tell whether a value is what another one has at some slots, to the last bit."""
    mine, theirs = _array(part), _array(whole)
    if mine.dtype != theirs.dtype or mine.shape[1:] != theirs.shape[1:] or part.is_graph_output():
        return False
    return mine.tobytes() == theirs[slots].tobytes()


def _write_out(graph: ir.Graph, constants: Constants, item: _Written) -> None:
    """Put the nodes in the place of a structure that write it out."""
    name, slots = str(item.csr.col.name), len(item.gaps)
    gaps, zero = constants.add(item.gaps), constants.add(np.array(0, np.int64))
    wide = ir.node("Cast", [gaps], {"to": ir.DataType.INT32})
    at = ir.node("CumSum", [wide.outputs[0], zero])
    sizes = (constants.add(np.array([count], np.int64)) for count in (item.whole.slots + 1, slots))
    none, ones = (
        ir.node("ConstantOfShape", [size], {"value": ir.tensor(np.array([fill], np.int32))})
        for fill, size in enumerate(sizes)
    )
    stay = ir.node("ScatterElements", [none.outputs[0], at.outputs[0], ones.outputs[0]], {"axis": 0})
    before = ir.node("CumSum", [stay.outputs[0], zero], {"exclusive": 1})
    nodes = [wide, at, none, ones, stay, before]
    parts = [(item.csr.rowptr, before.outputs[0], item.whole.rowptr)]
    parts += [(part, value, at.outputs[0]) for part, value in item.pairs]
    for part, source, rows in parts:
        nodes.append(_gather(part, source, rows))
    for place, node in enumerate(nodes):
        node.name = f"{name}_{node.op_type}_{place}"
        node.outputs[0].name = node.name
    graph.insert_before(graph[0], nodes)


def _gather(part: ir.Value, source: ir.Value, rows: ir.Value) -> ir.Node:
    """Return a node that gives a part of a structure, and let it take the place of what was stored."""
    graph = part.graph
    assert graph is not None
    node = ir.node("Gather", [source, rows], {"axis": 0})
    out = node.outputs[0]
    out.shape, out.type = part.shape, part.type
    ir.convenience.replace_all_uses_with(part, out)
    del graph.initializers[str(part.name)]
    return node


def _is_int32(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.dtype == ir.DataType.INT32


def _array(value: ir.Value) -> NDArray[Any]:
    assert value.const_value is not None
    return value.const_value.numpy()
