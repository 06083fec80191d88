"""A change of the graph: checked as a whole, then made, then what depends on it is marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import UsageError
from gnnexport.runtime.batched.chain import Chain, Link
from gnnexport.runtime.batched.growing import Ids
from gnnexport.runtime.batched.request import any_array, float_rows, node_ids
from gnnexport.runtime.batched.structure import Edges, GraphStructure, Touched

Rows = NDArray[np.float32]

_NONE = np.zeros(0, np.int64)
_AGAIN = "Make the bundle again from the grown graph"


class Update(TypedDict, total=False):
    """What `update` takes: a change of the graph or of its features.

    Args:
        edges: int64 [2, edges] that come, a row of sources and a row of destinations; new nodes among them.
        edge_weight: float32 [edges], where the model reads weights.
        edge_attr: float32 [edges, …], where the model reads features of edges.
        removed_edges: int64 [2, edges] that go; of several between two nodes the first ones. They go before others
            come.
        features: ids of nodes, and float32 [nodes, features] in the place of what they had.
        new_features: float32 [new nodes, features]; the ids that follow those there are.
    """

    edges: Any
    edge_weight: Any
    edge_attr: Any
    removed_edges: Any
    features: tuple[Any, Any] | None
    new_features: Any


@dataclass(frozen=True)
class Change:
    """What is to change, and fits the graph.

    Args:
        added: edges that come.
        removed: edges that go.
        nodes: distinct nodes that get other features.
        features: of these, float32 [nodes, features].
        new_features: of new nodes.
    """

    added: Edges
    removed: Edges
    nodes: Ids
    features: Rows
    new_features: Rows

    @property
    def reshapes(self) -> bool:
        """Tell whether nodes or edges come or go."""
        return bool(len(self.added) or len(self.removed) or len(self.new_features))


def check_change(
    where: str,
    chain: Chain,
    *,
    edges: Any = None,
    edge_weight: Any = None,
    edge_attr: Any = None,
    removed_edges: Any = None,
    features: tuple[Any, Any] | None = None,
    new_features: Any = None,
) -> Change:
    """Hold a change against the graph; nothing is changed.

    Raises:
        UsageError: it does not fit, or the bundle cannot follow it.
    """
    if any(given is not None for given in (edges, removed_edges, new_features)):
        _check_can_grow(where, chain)
    width = _feature_width(chain)
    new = float_rows(f"{where}: new_features", _given(new_features, (0, width)), (None, width))
    nodes, rows = _features(where, chain, features, width)
    added = _edges(f"{where}: edges", edges, chain.num_nodes + len(new))
    added = _with_values(where, chain, added, edge_weight, edge_attr)
    removed = _edges(f"{where}: removed_edges", removed_edges, chain.num_nodes)
    for structure in chain.structures.values():
        _check_removed(f"{where}: removed_edges", structure, removed)
    return Change(added, removed, nodes, rows, new)


def make_change(chain: Chain, change: Change, version: int) -> None:
    """Change tables and structures, and mark the stored rows that depend on it as out of date since `version`."""
    first = chain.num_nodes
    changed: dict[str, Ids] = {}
    new = np.arange(first, first + len(change.new_features))
    for name, table in chain.tables.items():
        others = table.replace(change.nodes, change.features) if len(change.nodes) else _NONE
        table.extend(change.new_features)
        changed[name] = np.concatenate([others, new])
    touched = {name: Touched(_NONE) for name in chain.structures}
    if change.reshapes:
        for name, structure in chain.structures.items():
            touched[name] = structure.change(len(new), change.removed, change.added)
    for link in chain.links:
        changed[link.name] = _dependent(chain, link, changed, touched)
        if link.store is not None:
            link.store.grow(chain.num_nodes)
            link.store.invalidate(changed[link.name], version)


def _dependent(chain: Chain, link: Link, changed: dict[str, Ids], touched: dict[str, Touched]) -> Ids:
    """Return the nodes whose rows of a stage depend on what changed."""
    found = [changed[given.value] for given in link.inputs("target")]
    if link.spec.structure is not None:
        slots = touched[link.spec.structure]
        read = np.unique(np.concatenate([_NONE, *(changed[given.value] for given in link.inputs("source"))]))
        found += [slots.rows, chain.structures[link.spec.structure].readers(read)]
        found += [slots.values.get(given.value, _NONE) for given in link.inputs("slot_values")]
    return np.unique(np.concatenate([_NONE, *found]))


def _given(value: Any, shape: tuple[int, ...]) -> Any:
    return np.zeros(shape, np.float32) if value is None else value


def _feature_width(chain: Chain) -> int:
    """Return how many features a node has: as many as a table of all of them, or as the tables of some speak of."""
    whole = [table.width for table in chain.spec.tables if table.columns is None]
    some = [max(table.columns) + 1 for table in chain.spec.tables if table.columns]
    return chain.spec.feature_width or max(whole or some or [0])


def _features(where: str, chain: Chain, features: tuple[Any, Any] | None, width: int) -> tuple[Ids, Rows]:
    if features is None:
        return _NONE, np.zeros((0, width), np.float32)
    if not isinstance(features, Sequence) or len(features) != 2:
        what = f"is {type(features).__name__}, not a pair"
        raise UsageError.at(f"{where}: features", what, f"Give (ids of nodes, float32 [nodes, {width}])")
    nodes = node_ids(f"{where}: features", features[0], chain.num_nodes)
    if len(np.unique(nodes)) < len(nodes):
        raise UsageError.at(f"{where}: features", "names a node twice", "Give each node once, with its last features")
    return nodes, float_rows(f"{where}: features", features[1], (len(nodes), width))


def _edges(where: str, edges: Any, num_nodes: int) -> Edges:
    array = np.zeros((2, 0), np.int64) if edges is None else any_array(where, edges)
    if array.ndim != 2 or len(array) != 2:
        what = f"is {array.dtype} {list(array.shape)}"
        raise UsageError.at(where, what, "Give int64 [2, edges]: a row of sources and a row of destinations")
    ends = node_ids(where, array.reshape(-1), num_nodes).reshape(2, -1)
    return Edges(ends[0], ends[1])


def _with_values(where: str, chain: Chain, edges: Edges, weight: Any, attr: Any) -> Edges:
    forms = set().union(*(structure.forms() for structure in chain.structures.values()))
    weighted, shape = bool(forms & {"edge_weight", "gcn_weighted"}), _attr_shape(chain)
    if len(edges) and weight is None and weighted:
        raise UsageError.at(f"{where}: edge_weight", "is missing", f"Give float32 [{len(edges)}]")
    if len(edges) and attr is None and shape is not None:
        raise UsageError.at(f"{where}: edge_attr", "is missing", f"Give float32 {[len(edges), *shape]}")
    for name, given, wanted in (("edge_weight", weight, weighted), ("edge_attr", attr, shape is not None)):
        if given is not None and not wanted:
            raise UsageError.at(f"{where}: {name}", "is read by no stage of this model", "Leave it out")
    return Edges(
        edges.source,
        edges.target,
        None if weight is None else float_rows(f"{where}: edge_weight", weight, (len(edges),)),
        None if attr is None else float_rows(f"{where}: edge_attr", attr, (len(edges), *(shape or ()))),
    )


def _attr_shape(chain: Chain) -> tuple[int, ...] | None:
    shapes = (structure.attr_shape() for structure in chain.structures.values())
    return next((shape for shape in shapes if shape is not None), None)


def _check_can_grow(where: str, chain: Chain) -> None:
    if chain.node_values:
        what = (
            f"the model reads '{next(iter(chain.node_values))}', which the bundle does not say how to make from edges"
        )
        raise UsageError.at(where, what, _AGAIN)
    for structure in chain.structures.values():
        why = structure.why_fixed()
        if why is not None:
            raise UsageError.at(where, f"the model reads {why}", _AGAIN)


def _check_removed(where: str, structure: GraphStructure, removed: Edges) -> None:
    if structure.drops_loops() and bool((removed.source == removed.target).any()):
        what = "holds a loop, and the model gives every node one of its own"
        raise UsageError.at(where, what, "Leave out loops: they change nothing")
    there = structure.adjacency.has(removed.target, removed.source)
    if not there.all():
        place = int(np.flatnonzero(~there)[0])
        pair = f"{int(removed.source[place])} → {int(removed.target[place])}"
        raise UsageError.at(where, f"holds {pair}, which is no edge, or fewer of them", "Give edges that there are")
