"""Bound the requests that an engine takes: TensorRT wants to know the smallest, a typical and the largest of each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.errors import Problem, UnsupportedError
from gnnexport.program.inputs import NUM_EDGES, NUM_NODES, NUM_PAIRS, OF, Mode, Role
from gnnexport.program.program import Program
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import DialectModel
from gnnexport.targets.onnx.open_tape import OpenTape
from gnnexport.targets.onnx.tape import Constants

GROWTH = 4
"""How many times larger than the sample a request may be, unless told."""

MOST_CELLS = 1 << 26
"""Cells of the largest table of neighbours: finding out what an engine is given makes it, some 40 bytes a cell."""

Feeds = Mapping[str, NDArray[Any]]
Profile = Mapping[str, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
"""What each input of an engine holds in the smallest, a typical and the largest request."""


@dataclass(frozen=True)
class Limits:
    """The largest request: how many of each there may be.

    Args:
        degree: edges into one node, or out of it.
        graph_nodes: nodes of one graph, which a readout goes through.
    """

    nodes: int
    edges: int
    degree: int
    graphs: int
    graph_nodes: int
    pairs: int

    @classmethod
    def of(cls, dialect: DialectModel, told: Mapping[str, int | None]) -> Limits:
        """Take limits from the sample, except those told."""
        seen = _counts(dialect)
        wanted = {name: told.get(name) or max(1, GROWTH * count) for name, count in seen.items()}
        # A node has no more edges than there are, and a graph no more nodes.
        wanted["degree"] = told.get("degree") or min(wanted["degree"], wanted["edges"])
        wanted["graph_nodes"] = told.get("graph_nodes") or min(wanted["graph_nodes"], wanted["nodes"])
        return cls(**wanted)

    def check(self, where: str) -> None:
        """Make sure that the largest request can be made here.

        Raises:
            UnsupportedError: one problem for each table that would be too large.
        """
        tables = (
            ("nodes", self.nodes, "degree", self.degree),
            ("graphs", self.graphs, "graph_nodes", self.graph_nodes),
        )
        problems = [
            Problem(
                where,
                f"the largest request has tables of {rows:,} {of} x {width:,} ({name}), more than {MOST_CELLS:,} cells",
                f"Give the largest that you serve with max_{of} and max_{name}, or use --target=ort",
            )
            for of, rows, name, width in tables
            if rows * width > MOST_CELLS
        ]
        if problems:
            raise UnsupportedError(*problems)

    def named(self, dialect: DialectModel) -> dict[str, int]:
        """Give those that a request of this model can reach, by the names of the options."""
        found = {kind for value in dialect.model.graph.inputs for kind, _ in _seen(value, dialect.sample)}
        return {f"max_{name}": count for name, count in asdict(self).items() if name in found}


REACHED = {
    Role.NODE_FEATURES: ("nodes",),
    Role.EDGE_INDEX: ("edges", "degree"),
    Role.GRAPH_IDS: ("graph_nodes",),
    Role.NUM_GRAPHS: ("graphs",),
    Role.LABEL_EDGES: ("pairs",),
}
"""The limits that an input of a request can reach."""


def unreached(program: Program, mode: Mode, told: Mapping[str, int | None], where: str) -> list[Problem]:
    """Return one problem for each limit that was told and that no request can reach."""
    inputs = program.inputs if mode == "graphs" else program.features
    roles = {item.role for item in inputs if mode == "graphs" or item.role is Role.LABEL_EDGES}
    reached = {name for role in roles for name in REACHED.get(role, ())}
    return [
        Problem(where, f"max_{name} bounds nothing that a request of this model in mode {mode} brings", "Leave it out")
        for name, count in told.items()
        if count is not None and name not in reached
    ]


def several_kinds(program: Program, mode: Mode, where: str) -> list[Problem]:
    """Return a problem where requests bring several kinds of nodes or edges, of which no limits can be told."""
    if mode != "graphs" or not any(OF in item.name for item in program.inputs):
        return []
    what = "the limits of a request are those of one kind of nodes and edges, and this model reads several"
    return [Problem(where, what, "Bake the graph in with --mode=full, or use --target=ort")]


def is_open(model: ir.Model) -> bool:
    """Tell whether a request may have sizes of its own."""
    return any(not isinstance(size, int) for value in model.graph.inputs for size in value.shape or ())


def features_of(model: ir.Model, *, edges: bool) -> set[str]:
    """Name the inputs that hold features of nodes, and of edges if asked; all others belong to the graph."""
    floats = {str(value.name): _sizes(value) for value in model.graph.inputs if _is_float(value)}
    return {
        name
        for name, sizes in floats.items()
        if sizes[:1] == [NUM_NODES] or (edges and sizes[:1] == [NUM_EDGES] and len(sizes) > 1)
    }


def profile_of(dialect: DialectModel, engine: ir.Model, prepare: Path | None, limits: Limits, threads: int) -> Profile:
    """Find out what an engine is given: run `prepare` on the smallest, the typical and the largest request.

    Args:
        dialect: its inputs are those of a request; with a sample.
        engine: the model that the engine is built from.
        prepare: the model in front of it; `None` where there is none.
        limits: of the largest request.
        threads: for running it.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    smallest = Limits(nodes=1, edges=0, degree=0, graphs=1, graph_nodes=1, pairs=1)
    requests = [request_of(dialect, smallest), dict(dialect.sample), request_of(dialect, limits)]
    names = {str(value.name) for value in engine.graph.inputs} & set(requests[0])
    given = [{name: request[name] for name in names} for request in requests]
    if prepare is not None:
        picks: tuple[bool | None, ...] = (False, None, True)
        for request, feeds, picked in zip(requests, given, picks, strict=True):
            feeds.update(run_prepare(prepare, request, threads, picked))
    low, typical, high = given
    return {name: (low[name], _within(typical[name], low[name], high[name]), high[name]) for name in low}


def run_prepare(given: Path, request: Feeds, threads: int, picked: bool | None) -> dict[str, NDArray[Any]]:
    """Run the model in front of an engine on a request.

    Args:
        given: the model.
        request: its inputs, among others.
        threads: for running it.
        picked: what every mask in the model picks instead of what it would: all or nothing. How many edges are loops,
            or how many nodes have some degree, is up to the request, and no one request has the most of each. Where
            the model wants as many rows picked as it counted otherwise, masks stay as they are.
    """
    path = given
    with tempfile.TemporaryDirectory() as scratch:
        if picked is not None:
            model = ir.load(given)
            if _pick(model.graph, picked):
                path = Path(scratch) / given.name
                ir.save(model, path)
        backend = OrtBackend(path, threads)
        try:
            return backend.run({item.name: request[item.name] for item in backend.inputs})
        except UnsupportedError:
            if picked is None or path == given:
                raise
        finally:
            backend.close()
    return run_prepare(given, request, threads, None)


def _pick(graph: ir.Graph, everything: bool) -> int:
    """Let every mask of a graph pick everything, or nothing; returns how many there are."""
    masks = [node for node in graph if node.op_type == "NonZero"]
    constants = Constants(graph)
    for node in masks:
        tape = OpenTape(constants, f"{node.outputs[0].name}_picked")
        assert node.inputs[0] is not None
        shape = tape.add("Shape", node.inputs[0], dtype=ir.DataType.INT64)
        node.replace_input_with(0, tape.filled(ir.DataType.BOOL, everything, shape))
        graph.insert_before(node, tape.nodes)
    return len(masks)


def request_of(dialect: DialectModel, limits: Limits) -> Feeds:
    """Make up a request that reaches its limits as far as they can be reached together."""
    return {str(value.name): _filled(value, limits) for value in dialect.model.graph.inputs}


def _filled(value: ir.Value, limits: Limits) -> NDArray[Any]:
    assert value.dtype is not None
    sizes = _sizes(value)
    edges = min(limits.edges, limits.nodes * limits.degree)
    counts = {NUM_NODES: limits.nodes, NUM_EDGES: edges, NUM_PAIRS: limits.pairs}
    shape = tuple(size if isinstance(size, int) else counts[size] for size in sizes)
    if sizes == [2, NUM_EDGES]:
        return _edges(limits, edges)
    if sizes == [NUM_NODES]:
        return _graph_ids(limits)
    if not shape:
        return np.array(limits.graphs, value.dtype.numpy())
    return np.zeros(shape, value.dtype.numpy())


def _edges(limits: Limits, count: int) -> NDArray[np.int64]:
    """Let as many as allowed point at the first node and the rest at the others in turn; none at where it is from."""
    first = min(limits.degree, count)
    others = np.arange(count - first) % max(1, limits.nodes - 1) + min(1, limits.nodes - 1)
    destination = np.concatenate([np.zeros(first, np.int64), others.astype(np.int64)])
    return np.stack([(destination + 1) % limits.nodes, destination])


def _graph_ids(limits: Limits) -> NDArray[np.int64]:
    """Let the first graph be as large as allowed and the others share what is left."""
    first = limits.nodes if limits.graphs == 1 else min(limits.graph_nodes, limits.nodes)
    others = np.sort(np.arange(limits.nodes - first) % max(1, limits.graphs - 1)) + 1
    return np.concatenate([np.zeros(first, np.int64), others.astype(np.int64)])


def _counts(dialect: DialectModel) -> dict[str, int]:
    """Count what the sample holds, by the names of the limits."""
    found = dict.fromkeys((field.name for field in fields(Limits)), 1)
    for kind, count in (item for value in dialect.model.graph.inputs for item in _seen(value, dialect.sample)):
        found[kind] = max(found[kind], count)
    return found


def _seen(value: ir.Value, sample: Feeds) -> Iterator[tuple[str, int]]:
    array, shape = sample[str(value.name)], _sizes(value)
    for size, count in zip(shape, array.shape, strict=True):
        if size in (NUM_NODES, NUM_EDGES, NUM_PAIRS):
            yield str(size).removeprefix("num_"), count
    if shape == [2, NUM_EDGES]:
        # Messages may flow either way, so that either row may name who receives them.
        yield "degree", max(int(np.bincount(row, minlength=1).max()) for row in array)
    if shape == [NUM_NODES] and not _is_float(value):
        yield "graph_nodes", int(np.bincount(array, minlength=1).max())
    if not shape:
        yield "graphs", int(array)


def _within(typical: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
    """Cut a typical value down to limits that are smaller than the sample: its sizes, or if it is a size itself, it."""
    shape = tuple(np.clip(typical.shape, low.shape, high.shape).tolist())
    if shape != typical.shape:
        return np.zeros(shape, typical.dtype)
    if typical.dtype.kind == "i" and low.shape == shape == high.shape:
        return np.asarray(np.clip(typical, low, high))
    return typical


def _sizes(value: ir.Value) -> list[int | str]:
    """Return the shape of an input; a dynamic size has a name."""
    assert value.shape is not None
    return [size if isinstance(size, int) else str(size.value) for size in value.shape]


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()
