"""A structure of the graph with the values of its slots, brought up to date where edges come or go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.stages import Loops, StructureValue
from gnnexport.runtime.batched.adjacency import Adjacency
from gnnexport.runtime.batched.growing import Growing, Ids

_COMPUTED = ("gcn", "gcn_weighted", "mean")
"""Forms that follow from the slots; the others come with the edges."""


@dataclass(frozen=True)
class Edges:
    """Edges that come or go.

    Args:
        source: int64 [edges].
        target: int64 [edges].
        weight: float32 [edges], where the graph has weights.
        attr: float32 [edges, …], where it has features of edges.
    """

    source: Ids
    target: Ids
    weight: NDArray[np.float32] | None = None
    attr: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.source)

    def where(self, mask: NDArray[np.bool_]) -> Edges:
        """Return those of a mask."""
        parts = (self.source, self.target, self.weight, self.attr)
        return Edges(*(None if part is None else part[mask] for part in parts))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Touched:
    """What edges changed.

    Args:
        rows: those whose slots are others.
        values: of each value, the rows with a slot whose value is another.
    """

    rows: Ids
    values: dict[str, Ids] = field(default_factory=dict)


class GraphStructure:
    """Neighbours by destination, the values of their slots, and once something changed who reads whom."""

    def __init__(self, loops: Loops | None, adjacency: Adjacency, specs: Sequence[StructureValue]) -> None:
        """Take over an adjacency whose values are those of `specs`."""
        self.adjacency = adjacency
        self._loops = loops
        self._specs = {spec.name: spec for spec in specs}
        self._readers: Adjacency | None = None
        self._strength: Growing | None = None
        self._weight = next((spec.name for spec in specs if spec.form == "edge_weight"), None)

    def value(self, name: str) -> NDArray[Any]:
        """Return the values of all slots, by where these stand."""
        return self.adjacency.values[name]

    def readers(self, nodes: Ids) -> Ids:
        """Return the rows that read any of these nodes, each once."""
        return np.unique(self._transposed().neighbours(nodes).col) if len(nodes) else nodes

    def read_counts(self) -> Ids:
        """Count for each node how many slots read it."""
        rows = np.arange(self.adjacency.num_nodes)
        return np.bincount(self.adjacency.col[self.adjacency.slots_of(rows)], minlength=len(rows))

    def why_fixed(self) -> str | None:
        """Say why no edge can be added, or return `None` where edges can be."""
        if self._loops is None:
            return "a structure that the bundle does not say how to make from edges"
        for spec in self._specs.values():
            if spec.form is None:
                return f"'{spec.name}', of which the bundle does not say how it follows from edges"
            if spec.form == "gcn_weighted" and self._weight is None:
                return f"'{spec.name}', which follows from weights that the bundle does not hold"
        return None

    def forms(self) -> set[str]:
        """Return the forms of its values."""
        return {str(spec.form) for spec in self._specs.values()}

    def attr_shape(self) -> tuple[int, ...] | None:
        """Return the shape of one edge's features; `None` where no value is one."""
        names = [spec.name for spec in self._specs.values() if spec.form == "edge_attr"]
        return self.value(names[0]).shape[1:] if names else None

    def drops_loops(self) -> bool:
        """Tell whether the loops among the edges were left out."""
        return self._loops == "replaced"

    def change(self, new_nodes: int, removed: Edges, added: Edges) -> Touched:
        """Add nodes, then take edges out, then add edges; everything was checked.

        Returns:
            What changed; of new nodes, all.
        """
        self._transposed()
        self._sum_weights()
        nodes = np.arange(self.adjacency.num_nodes, self.adjacency.num_nodes + new_nodes)
        self._add_nodes(nodes)
        one_loop = self.drops_loops()
        if one_loop:
            added = added.where(added.source != added.target)
        rows = np.unique(np.concatenate([nodes, removed.target, added.target]))
        length = self.adjacency.length[rows]
        self._remove(removed)
        self._add(added, behind=int(one_loop))
        changed = {"gcn": rows[self.adjacency.length[rows] != length], "gcn_weighted": self._sum_anew(rows)}
        return Touched(rows, {name: self._bring_up(spec, rows, changed) for name, spec in self._specs.items()})

    def _transposed(self) -> Adjacency:
        if self._readers is None:
            self._readers = self.adjacency.transposed()
        return self._readers

    def _add_nodes(self, nodes: Ids) -> None:
        if not len(nodes):
            return
        self.adjacency.add_nodes(len(nodes))
        self._transposed().add_nodes(len(nodes))
        if self._loops == "replaced":
            fills = {name: self._filled(spec, len(nodes)) for name, spec in self._specs.items()}
            self.adjacency.add(nodes, nodes, fills)
            self._transposed().add(nodes, nodes, {})

    def _filled(self, spec: StructureValue, count: int) -> NDArray[Any]:
        like = self.value(spec.name)
        return np.full((count, *like.shape[1:]), spec.fill, like.dtype)

    def _remove(self, edges: Edges) -> None:
        if len(edges):
            self.adjacency.remove(edges.target, edges.source)
            self._transposed().remove(edges.source, edges.target)

    def _add(self, edges: Edges, behind: int) -> None:
        if not len(edges):
            return
        values = {name: self._given(spec, edges) for name, spec in self._specs.items()}
        self.adjacency.add(edges.target, edges.source, values, behind=behind)
        self._transposed().add(edges.source, edges.target, {})

    def _given(self, spec: StructureValue, edges: Edges) -> NDArray[Any]:
        given = {"edge_weight": edges.weight, "edge_attr": edges.attr}.get(str(spec.form))
        shape = (len(edges), *self.value(spec.name).shape[1:])
        return self._filled(spec, len(edges)) if given is None else given.reshape(shape)

    def _bring_up(self, spec: StructureValue, rows: Ids, changed: Mapping[str, Ids]) -> Ids:
        """Compute a value anew where it may be another, and return the rows of these slots."""
        if spec.form not in _COMPUTED:
            return rows
        if spec.form in changed:
            rows = np.union1d(rows, self.readers(changed[spec.form]))
        slots = self.adjacency.slots_of(rows)
        owner = np.repeat(rows, self.adjacency.length[rows])
        value = self.value(spec.name)
        value[slots] = self._computed(spec, owner, slots).reshape(value[slots].shape)
        return rows

    def _computed(self, spec: StructureValue, rows: Ids, slots: Ids) -> NDArray[np.float64]:
        if spec.form == "mean":
            return _inverse(self.adjacency.length[rows])
        sources = self.adjacency.col[slots]
        if spec.form == "gcn":
            length = self.adjacency.length
            return np.sqrt(_inverse(length[rows]) * _inverse(length[sources]))
        assert self._weight is not None
        assert self._strength is not None
        strength = self._strength.array
        weight = self.value(self._weight)[slots].reshape(len(slots)).astype(np.float64)
        return weight * np.sqrt(_inverse(strength[rows]) * _inverse(strength[sources]))

    def _sum_weights(self) -> None:
        """Sum the weights of each row before the first change, where a value follows from the sums."""
        if self._strength is None and "gcn_weighted" in self.forms():
            self._strength = Growing(self._summed(np.arange(self.adjacency.num_nodes)))

    def _summed(self, rows: Ids) -> NDArray[np.float64]:
        assert self._weight is not None
        slots = self.adjacency.slots_of(rows)
        owner = np.repeat(np.arange(len(rows)), self.adjacency.length[rows])
        weights = self.value(self._weight)[slots].reshape(len(slots)).astype(np.float64)
        return np.bincount(owner, weights, len(rows)).astype(np.float64)

    def _sum_anew(self, rows: Ids) -> Ids:
        """Sum the weights of some rows anew; return those of which the sum is another."""
        if self._strength is None:
            return rows[:0]
        self._strength.extend(np.zeros(self.adjacency.num_nodes - len(self._strength.array)))
        before = self._strength.array[rows]
        self._strength.array[rows] = self._summed(rows)
        others: Ids = rows[self._strength.array[rows] != before]
        return others


def _inverse(count: NDArray[Any]) -> NDArray[np.float64]:
    """Return 1 / count, and 0 where that is 0 or less."""
    inverse = np.zeros(len(count))
    np.divide(1.0, count, out=inverse, where=count > 0)
    return inverse
