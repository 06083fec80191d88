"""Recognise how the structure values of a Program come from its graph, so that they can follow when the graph grows.

Nothing is read off the operators of `prepare`: each way that is known is tried on graphs that have everything odd a
graph can have, and on the data, and the one that agrees on all of them is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnnexport.bundle.stages import Form, Loops, Structure, StructureValue
from gnnexport.program.inputs import Role
from gnnexport.program.program import EXAMPLE_NODES, Program
from gnnexport.program.stages import STRUCTURE, CutProgram

TOLERANCE = 1e-6
RAW_WEIGHTS = "edge_weight"
"""Name of weights that no stage reads, and that those it reads are made from."""

_FILLS = (1.0, 2.0)

Array = NDArray[np.generic]


@dataclass(frozen=True)
class _Sorted:
    """A structure as one of the known ways makes it.

    Args:
        rowptr: int64 [nodes + 1].
        col: int64 [slots].
        edge: int64 [slots], the edge in each slot; -1 for an added loop.
    """

    rowptr: NDArray[np.int64]
    col: NDArray[np.int64]
    edge: NDArray[np.int64]

    @property
    def row(self) -> NDArray[np.int64]:
        """Destination of each slot."""
        return np.repeat(np.arange(len(self.rowptr) - 1), np.diff(self.rowptr))


def recognise(
    cut: CutProgram, data: Mapping[str, Tensor], slot_values: Sequence[str], node_values: Sequence[str]
) -> tuple[Structure, tuple[StructureValue, ...]]:
    """Describe the structure that stages reduce over, and the values they read of it.

    Args:
        cut: a Program in stages.
        data: the graph.
        slot_values: names of values of slots that are read.
        node_values: names of values of nodes that are read.
    """
    program = cut.program
    graphs = [*(program.example(count, seed) for seed in range(2) for count in EXAMPLE_NODES), data]
    structures = [dict(zip(program.structure_names, program.structure(graph), strict=True)) for graph in graphs]
    loops = _loops(cut, graphs, structures)
    values = [StructureValue(name=name) for name in node_values]
    for name in slot_values:
        form, fill = (None, 1.0) if loops is None else _form(cut.program, graphs, structures, name, loops)
        values.append(StructureValue(name=name, structure=STRUCTURE, form=form, fill=fill))
    return Structure(name=STRUCTURE, loops=loops), tuple(values)


def raw_weights(
    cut: CutProgram, data: Mapping[str, Tensor], structure: Structure, values: Sequence[StructureValue]
) -> tuple[StructureValue, Tensor] | None:
    """Return the weights that normalised ones are made from, where any are: these have to grow with the graph too."""
    made = next((value for value in values if value.form == "gcn_weighted"), None)
    known = any(value.form == "edge_weight" for value in values)
    if made is None or known or structure.loops is None:
        return None
    roles = {item.role: item.name for item in cut.program.inputs}
    given = data[roles[Role.EDGE_WEIGHT]]
    slots = _value(_sort(cut.program, data, structure.loops), "edge_weight", given, made.fill)
    assert slots is not None
    spec = StructureValue(name=RAW_WEIGHTS, structure=STRUCTURE, form="edge_weight", fill=made.fill)
    return spec, torch.from_numpy(slots.astype(np.float32))


Graphs = Sequence[Mapping[str, Tensor]]


def _loops(cut: CutProgram, graphs: Graphs, structures: Graphs) -> Loops | None:
    ways: tuple[Loops, ...] = ("kept", "replaced")
    for way in ways:
        made = [_sort(cut.program, graph, way) for graph in graphs]
        if all(
            np.array_equal(found.rowptr, values[cut.rowptr].numpy())
            and np.array_equal(found.col, values[cut.col].numpy())
            for found, values in zip(made, structures, strict=True)
        ):
            return way
    return None


def _sort(program: Program, graph: Mapping[str, Tensor], loops: Loops) -> _Sorted:
    """Sort the edges of a graph by destination, in the order given."""
    (index,) = (item.name for item in program.inputs if item.role is Role.EDGE_INDEX)
    source, destination = graph[index].numpy()
    count = len(graph[program.features[0].name])
    edge = np.arange(len(source))
    if loops == "replaced":
        kept = source != destination
        nodes = np.arange(count)
        source, destination = np.append(source[kept], nodes), np.append(destination[kept], nodes)
        edge = np.append(edge[kept], np.full(count, -1))
    order = np.argsort(destination, kind="stable")
    rowptr = np.concatenate([[0], np.cumsum(np.bincount(destination, minlength=count))])
    return _Sorted(rowptr.astype(np.int64), source[order], edge[order])


def _form(
    program: Program, graphs: Graphs, structures: Graphs, name: str, loops: Loops
) -> tuple[Form | None, float]:  # fmt: skip
    """Return how a value of slots comes about, and what added loops have."""
    roles = {item.role: item.name for item in program.inputs}
    forms: list[tuple[Form, str | None]] = [("gcn", None), ("mean", None)]
    if Role.EDGE_WEIGHT in roles:
        forms += [("gcn_weighted", roles[Role.EDGE_WEIGHT]), ("edge_weight", roles[Role.EDGE_WEIGHT])]
    if Role.EDGE_FEATURES in roles:
        forms.append(("edge_attr", roles[Role.EDGE_FEATURES]))
    for (form, of_edges), fill in itertools.product(forms, _FILLS):
        if of_edges is None and fill != 1.0:
            continue
        if all(
            _agrees(
                _value(_sort(program, graph, loops), form, None if of_edges is None else graph[of_edges], fill), held
            )
            for graph, held in zip(graphs, (values[name] for values in structures), strict=True)
        ):
            return form, fill
    return None, 1.0


def _agrees(made: Array | None, held: Tensor) -> bool:
    if made is None or made.shape != tuple(held.shape):
        return False
    return bool(np.allclose(made, held.numpy(), rtol=TOLERANCE, atol=TOLERANCE))


def _value(found: _Sorted, form: Form, of_edges: Tensor | None, fill: float) -> Array | None:
    """Compute a value of slots in one of the known ways; `None` where a loop has more than one number."""
    slots = np.ones(len(found.col), np.float64)
    if of_edges is not None:
        given = of_edges.numpy()
        if given.ndim == 2 and given.shape[1] == 1 and form != "edge_attr":
            given = given[:, 0]
        tail = given.shape[1:]
        loop = (found.edge < 0).reshape(-1, *[1] * len(tail))
        slots = np.where(loop, fill, given[found.edge] if len(given) else np.full((len(found.edge), *tail), fill))
    if form in ("edge_weight", "edge_attr"):
        return slots
    if slots.ndim != 1:
        return None
    degree = np.bincount(found.row, weights=slots, minlength=len(found.rowptr) - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(degree > 0, 1 / degree, 0.0)
        if form == "mean":
            return slots * inverse[found.row]
        root = np.sqrt(inverse)
    return slots * root[found.row] * root[found.col]
