"""A growing graph, small models over it in stages of numpy, and what they answer when computed from scratch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gnnexport.bundle.manifest import Tensor
from gnnexport.bundle.stages import (
    Batched,
    FeatureTable,
    Form,
    Loops,
    Stage,
    StageInput,
    StoreBits,
    Structure,
    StructureValue,
)
from gnnexport.native.packed import pack, pack_bytes, unpack
from gnnexport.native.row_widths import choose_widths
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.batched.adjacency import Adjacency
from gnnexport.runtime.batched.chain import Chain
from gnnexport.runtime.batched.model import BatchedModel
from gnnexport.runtime.batched.packed_tables import PackedFeatures, Table
from gnnexport.runtime.batched.structure import GraphStructure
from gnnexport.runtime.batched.tables import FeatureRows

Array = np.ndarray
CHANNELS, HIDDEN, CLASSES = 6, 5, 3
NARROW = (1, 4)
"""The features that neighbours give, where they give some."""


@dataclass
class World:
    """The graph as it is: what models are held against.

    Args:
        x: float32 [nodes, CHANNELS].
        edges: int64 [2, edges], in the order they came.
        weight: float32 [edges].
        attr: float32 [edges, 2].
    """

    x: Array
    edges: Array
    weight: Array
    attr: Array

    @classmethod
    def random(cls, nodes: int, edges: int, seed: int = 0) -> World:
        """Make one with a hub, loops, edges that come twice, and nodes without any."""
        rng = np.random.default_rng(seed)
        ends = rng.integers(0, max(nodes * 3 // 4, 1), (2, edges))
        ends[0, : edges // 6] = 0
        ends[1, edges // 6 : edges // 3] = 0
        return cls(_floats(rng, nodes, CHANNELS), ends, rng.random(edges, np.float32) + 0.1, _floats(rng, edges, 2))

    @property
    def num_nodes(self) -> int:
        """How many nodes there are."""
        return len(self.x)

    def copy(self) -> World:
        """Return another one with the same graph."""
        return World(self.x.copy(), self.edges.copy(), self.weight.copy(), self.attr.copy())

    def update(
        self,
        edges: Array | None = None,
        edge_weight: Array | None = None,
        edge_attr: Array | None = None,
        removed_edges: Array | None = None,
        features: tuple[Array, Array] | None = None,
        new_features: Array | None = None,
    ) -> None:
        """Change as `BatchedModel.update` does."""
        if features is not None:
            self.x[features[0]] = features[1]
        if new_features is not None:
            self.x = np.concatenate([self.x, new_features])
        for pair in [] if removed_edges is None else np.asarray(removed_edges).T:
            first = int(np.flatnonzero((self.edges == pair[:, None]).all(axis=0))[0])
            self.edges = np.delete(self.edges, first, axis=1)
            self.weight, self.attr = np.delete(self.weight, first), np.delete(self.attr, first, axis=0)
        if edges is not None:
            count = edges.shape[1]
            self.edges = np.concatenate([self.edges, edges], axis=1)
            weight = np.ones(count, np.float32) if edge_weight is None else edge_weight
            attr = np.zeros((count, 2), np.float32) if edge_attr is None else edge_attr
            self.weight, self.attr = np.concatenate([self.weight, weight]), np.concatenate([self.attr, attr])

    def sorted(self, loops: Loops) -> tuple[Array, Array, Array]:
        """Return `rowptr`, `col` and the edge of each slot, -1 for a loop that was added."""
        source, target = self.edges
        edge = np.arange(len(source))
        if loops == "replaced":
            kept = source != target
            nodes = np.arange(self.num_nodes)
            source, target = np.append(source[kept], nodes), np.append(target[kept], nodes)
            edge = np.append(edge[kept], np.full(self.num_nodes, -1))
        order = np.argsort(target, kind="stable")
        rowptr = np.append(0, np.cumsum(np.bincount(target, minlength=self.num_nodes)))
        return rowptr.astype(np.int64), source[order].astype(np.int64), edge[order]

    def values(self, form: Form, loops: Loops, fill: float) -> Array:
        """Return a value of each slot, in float64."""
        rowptr, col, edge = self.sorted(loops)
        row = np.repeat(np.arange(self.num_nodes), np.diff(rowptr))
        given = self.attr if form == "edge_attr" else self.weight
        if form in ("gcn", "mean"):
            held = np.ones(len(col))
        else:
            loop = (edge < 0).reshape(-1, *[1] * (given.ndim - 1))
            held = np.where(loop, fill, given[edge] if len(given) else np.ones((len(col), *given.shape[1:])))
        if form in ("edge_weight", "edge_attr"):
            return held.astype(np.float64)
        degree = np.bincount(row, held, self.num_nodes)
        inverse = np.divide(1, degree, out=np.zeros_like(degree), where=degree > 0)
        return held * inverse[row] if form == "mean" else held * np.sqrt(inverse[row] * inverse[col])


class NumpyBackend(Backend):
    """A stage in numpy. It fails where two threads run it at once though it bears only one."""

    name = "numpy"

    def __init__(self, spec: Stage, call: Callable[[Mapping[str, Array]], Array], *, concurrent: bool = False) -> None:
        self.spec = spec
        self.concurrent = concurrent  # type: ignore[misc]
        self.inputs = ()
        self.outputs = (Tensor(name=spec.output, dtype="float32", shape=("rows", spec.width)),)
        self._call = call
        self._busy = threading.Lock()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the stage."""
        assert all(array.flags.c_contiguous for array in feeds.values())
        alone = self._busy.acquire(blocking=False)
        assert alone or self.concurrent, "two threads at once"
        try:
            return {self.spec.output: self._call(feeds).astype(np.float32)}
        finally:
            if alone:
                self._busy.release()

    def close(self) -> None:
        """Forget the stage."""
        del self._call


def reduce_slots(feeds: Mapping[str, Array], messages: Array) -> Array:
    """Sum float64 messages over the slots of each row."""
    rowptr = feeds["rowptr"]
    out = np.zeros((len(rowptr) - 1, messages.shape[1]))
    np.add.at(out, np.repeat(np.arange(len(out)), np.diff(rowptr)), messages)
    return out


@dataclass
class Model:
    """Stages over a World.

    Args:
        stages: specs with what computes them.
        tables: of features.
        loops: of the one structure, `graph`.
        values: of its slots.
        changes: what `update` takes besides edges.
    """

    stages: list[tuple[Stage, Callable[[Mapping[str, Array]], Array]]]
    tables: list[FeatureTable]
    loops: Loops = "kept"
    values: list[StructureValue] = field(default_factory=list)
    changes: tuple[str, ...] = ()

    def scratch(self, world: World, store_bits: StoreBits = 32) -> Array:
        """Answer for all nodes, from scratch."""
        return self.rows(world, store_bits)[f"stage-{self.stages[-1][0].depth}"]

    def rows(self, world: World, store_bits: StoreBits = 32) -> dict[str, Array]:
        """Return the rows of all tables and stages, for all nodes, those between stages as a store rounds them."""
        rowptr, col, _ = world.sorted(self.loops)
        rows = {table.name: world.x[:, list(table.columns or range(CHANNELS))] for table in self.tables}
        for spec, call in self.stages:
            parts: dict[str, Any] = {"rowptr": rowptr, "col": col}
            parts |= {value.name: world.values(value.form, self.loops, value.fill) for value in self.values}  # type: ignore[arg-type]
            feeds = {
                item.name: rows[item.value] if item.value in rows else parts[item.value or item.part]
                for item in spec.inputs
            }
            found = call(feeds)
            if store_bits == 8 and spec is not self.stages[-1][0]:
                found = unpack(pack_bytes(found.astype(np.float32)))
            rows[f"stage-{spec.depth}"] = found
        return rows

    def open(
        self, world: World, store_bytes: int = 1 << 24, store_bits: StoreBits = 32, *, packed: int | None = None
    ) -> BatchedModel:
        """Open a model of the graph as it is now; with `packed` features are rounded to so many bits at most."""
        return BatchedModel(self.chain(world, store_bytes, store_bits, packed=packed))

    def chain(
        self, world: World, store_bytes: int = 1 << 24, store_bits: StoreBits = 32, *, concurrent: bool = False,
        packed: int | None = None,
    ) -> Chain:  # fmt: skip
        """Make what the model is opened of."""
        rowptr, col, _ = world.sorted(self.loops)
        values = {name: value.astype(np.float32) for name, value in self._values(world).items()}
        structure = GraphStructure(self.loops, Adjacency(rowptr, col, values), self.values)
        specs = tuple(spec for spec, _ in self.stages)
        batched = Batched(
            tables=tuple(self.tables),
            structures=(Structure(name="graph", loops=self.loops),),
            values=tuple(self.values),
            stages=specs,
        )
        tables = {table.name: _table(table, world.x, packed) for table in self.tables}
        backends = [NumpyBackend(spec, call, concurrent=concurrent) for spec, call in self.stages]
        return Chain(batched, tables, {"graph": structure}, {}, backends, store_bytes, store_bits)

    def _values(self, world: World) -> dict[str, Array]:
        return {value.name: world.values(value.form, self.loops, value.fill) for value in self.values if value.form}


def _table(table: FeatureTable, x: Array, packed: int | None) -> Table:
    rows = np.ascontiguousarray(x[:, list(table.columns or range(CHANNELS))])
    if packed is None:
        return FeatureRows(rows, table.columns)
    is_signed = bool((x < 0).any())
    step, bits = choose_widths(x, packed, is_signed=is_signed)
    return PackedFeatures(pack(rows, step, bits, is_signed=is_signed), packed, table.columns)


X = FeatureTable(name="x", file="x.npy", width=CHANNELS)
SOME = FeatureTable(name="some", file="some.npy", width=len(NARROW), columns=NARROW)


def sage(layers: int = 2, *, direct: bool = True, first: int = 1) -> Model:
    """GraphSAGE with means, whose first layer reads some features of neighbours; with `first=0` one layer in front."""
    rng = np.random.default_rng(layers)
    stages: list[tuple[Stage, Callable[[Mapping[str, Array]], Array]]] = []
    for depth in range(first, layers + 1):
        width = CLASSES if depth == layers else HIDDEN
        own, neighbours = ("x", "some") if depth == first else (f"stage-{depth - 1}",) * 2
        if depth == 0:
            weight = rng.standard_normal((CHANNELS, width))
            inputs = (StageInput(name="own", part="target", value="x"),)
            stages.append((_stage(0, width, inputs), lambda feeds, w=weight: np.tanh(feeds["own"] @ w)))
            continue
        sizes = (CHANNELS, len(NARROW)) if depth == first else (HIDDEN, HIDDEN)
        weights = [rng.standard_normal((size, width)) / 2 for size in sizes]
        inputs = (
            StageInput(name="own", part="target", value=own),
            StageInput(name="near", part="source", value=neighbours),
            StageInput(name="rowptr", part="rowptr"),
            StageInput(name="col", part="col"),
        )
        stages.append((_stage(depth, width, inputs, direct=direct), _mean_layer(*weights)))
    return Model(stages, [X, SOME] if first else [X])


def gcn(form: Form = "gcn", layers: int = 2, fill: float = 1.0) -> Model:
    """GCN with loops; `gcn_weighted` weighs edges."""
    rng = np.random.default_rng(5)
    stages: list[tuple[Stage, Callable[[Mapping[str, Array]], Array]]] = []
    for depth in range(1, layers + 1):
        width = CLASSES if depth == layers else HIDDEN
        weight = rng.standard_normal((CHANNELS if depth == 1 else HIDDEN, width)) / 4
        inputs = (
            StageInput(name="near", part="source", value="x" if depth == 1 else f"stage-{depth - 1}"),
            StageInput(name="rowptr", part="rowptr"),
            StageInput(name="col", part="col"),
            StageInput(name="norm", part="slot_values", value="norm"),
        )
        stages.append((_stage(depth, width, inputs, direct=True), _weighted_layer(weight, last=depth == layers)))
    values = [StructureValue(name="norm", structure="graph", form=form, fill=fill, scales=True)]
    if form != "gcn":
        values.append(StructureValue(name="weight", structure="graph", form="edge_weight", fill=fill))
    return Model(stages, [X], "replaced", values, () if form == "gcn" else ("edge_weight",))


def jumping() -> Model:
    """Three layers, the last of which reads all before it of the node, features of edges, and weights 1 / degree."""
    model = sage(3)
    rng = np.random.default_rng(9)
    weight = rng.standard_normal((3 * HIDDEN + 2, CLASSES))
    inputs = (
        StageInput(name="one", part="target", value="stage-1"),
        StageInput(name="near", part="source", value="stage-2"),
        StageInput(name="two", part="target", value="stage-2"),
        StageInput(name="rowptr", part="rowptr"),
        StageInput(name="col", part="col"),
        StageInput(name="attr", part="slot_values", value="attr"),
        StageInput(name="mean", part="slot_values", value="mean"),
    )

    def call(feeds: Mapping[str, Array]) -> Array:
        near = np.concatenate([feeds["near"][feeds["col"]], feeds["attr"]], axis=1) * feeds["mean"][:, None]
        return np.concatenate([feeds["one"], feeds["two"], reduce_slots(feeds, near)], axis=1) @ weight

    values = [
        StructureValue(name="attr", structure="graph", form="edge_attr"),
        StructureValue(name="mean", structure="graph", form="mean"),
    ]
    stages = [*model.stages[:2], (_stage(3, CLASSES, inputs), call)]
    return Model(stages, model.tables, "kept", values, ("edge_attr",))


MODELS: dict[str, Callable[[], Model]] = {
    "sage": sage,
    "sage of three layers, numbered": lambda: sage(3, direct=False),
    "sage behind a layer": lambda: sage(2, first=0),
    "gcn": gcn,
    "gcn, weighted": lambda: gcn("gcn_weighted", fill=2.0),
    "jumping": jumping,
}


def random_update(world: World, model: Model, rng: np.random.Generator) -> dict[str, Any]:
    """Draw something that may change: features, nodes, edges that come and go."""
    kinds = rng.integers(0, 2, 4).astype(bool)
    change: dict[str, Any] = {}
    nodes = world.num_nodes
    if kinds[0]:
        ids = rng.choice(nodes, rng.integers(1, min(nodes, 4) + 1), replace=False)
        change["features"] = (ids, _floats(rng, len(ids), CHANNELS))
    if kinds[1] and rng.random() < 0.5:
        change["new_features"] = _floats(rng, rng.integers(1, 3), CHANNELS)
        nodes += len(change["new_features"])
    apart = world.edges[0] != world.edges[1]
    if kinds[2] and apart.any():
        drawn = rng.choice(np.flatnonzero(apart), min(int(apart.sum()), 3), replace=False)
        change["removed_edges"] = world.edges[:, drawn]
    if kinds[3] or not change:
        count = int(rng.integers(1, 6))
        change["edges"] = rng.integers(0, nodes, (2, count))
        values = {"edge_weight": rng.random(count, np.float32) + 0.1, "edge_attr": _floats(rng, count, 2)}
        change |= {name: values[name] for name in model.changes}
    return change


def _stage(depth: int, width: int, inputs: tuple[StageInput, ...], *, direct: bool = False) -> Stage:
    structure = "graph" if depth else None
    file, output = f"stage-{depth}.onnx", "rows"
    return Stage(
        model_file=file, depth=depth, output=output, width=width, structure=structure, direct=direct, inputs=inputs
    )


def _mean_layer(own: Array, near: Array) -> Callable[[Mapping[str, Array]], Array]:
    def call(feeds: Mapping[str, Array]) -> Array:
        count = np.maximum(np.diff(feeds["rowptr"]), 1)[:, None]
        mean = reduce_slots(feeds, feeds["near"][feeds["col"]].astype(np.float64)) / count
        return np.tanh(feeds["own"] @ own + mean @ near)

    return call


def _weighted_layer(weight: Array, *, last: bool) -> Callable[[Mapping[str, Array]], Array]:
    def call(feeds: Mapping[str, Array]) -> Array:
        rows = reduce_slots(feeds, feeds["near"][feeds["col"]] * feeds["norm"][:, None]) @ weight
        return rows if last else np.tanh(rows)

    return call


def _floats(rng: np.random.Generator, rows: int, width: int) -> Array:
    return rng.standard_normal((rows, width)).astype(np.float32)
