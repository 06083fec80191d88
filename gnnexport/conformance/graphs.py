"""Adversarial graphs: each is small, and wrong numbers on it tell which mistake was made.

They are made from raw bits of a generator by whole numbers only, so that every numpy makes the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MIXED = "mixed graphs"
"""A batch in which everything stands side by side; most laws are checked on it."""

ONE_WAY = "one-way edges"
MANY = "many nodes"

MANY_GRAPHS, MANY_SIZE = 1550, 30
"""46,500 nodes and as many edges: a node times a node, or times an edge, is more than 31 bits can hold."""


@dataclass(frozen=True)
class Topology:
    """A batch of graphs without features.

    Args:
        sizes: nodes of each graph.
        edges: int64 [2, num_edges], sources over destinations; numbered through the batch.
    """

    sizes: tuple[int, ...]
    edges: Ints

    @property
    def num_nodes(self) -> int:
        """Nodes of all graphs."""
        return sum(self.sizes)


def adversarial_graphs() -> dict[str, Topology]:
    """Make the small graphs, by what each is after.

    | graph | shows up |
    |---|---|
    | one node, no edges | a reduction over nothing |
    | isolated nodes | a maximum or mean over nothing beside some over something |
    | duplicate edges | an edge lost because it stands there already; a mean divided by the number of neighbours |
    | self-loops on some nodes | a self-loop added to those that have one, or left out of those that have none |
    | one-way edges | source and destination swapped: no node is both |
    | permuted edges | destinations taken to be sorted |
    | components | edges that leave their part of a graph, ids of graphs taken from components |
    | mixed graphs | all of it, side by side: an offset of a graph that is wrong |
    """
    return {
        "one node, no edges": Topology((1,), _edges([])),
        "isolated nodes": Topology((9, 4), _edges([(1, 7), (4, 7), (7, 1), (7, 4), (10, 12)])),
        "duplicate edges": Topology((6, 5), _edges(_duplicates(0, 6) + _duplicates(6, 5))),
        "self-loops on some nodes": Topology((6, 5), _edges(_loops(0, 6) + _loops(6, 5))),
        ONE_WAY: Topology((9,), _edges([(s, d) for s in range(5) for d in range(5, 9) if (s + d) % 3])),
        "permuted edges": Topology((12, 7), _permuted()),
        "components": Topology((10, 6), _edges([*_ring(0, 4), *_ring(4, 5), *_ring(10, 2), *_ring(12, 3)])),
        MIXED: _mixed(),
    }


def many_nodes() -> Topology:
    """Make a batch of so many nodes and edges that the product of two indices leaves 31 bits."""
    first = np.repeat(np.arange(MANY_GRAPHS, dtype=np.int64) * MANY_SIZE, MANY_SIZE)
    place = np.tile(np.arange(MANY_SIZE, dtype=np.int64), MANY_GRAPHS)
    edges = np.stack([first + place, first + (7 * place + 3) % MANY_SIZE])
    return Topology((MANY_SIZE,) * MANY_GRAPHS, edges)


def shuffled(count: int, seed: int) -> Ints:
    """Return the numbers below `count` in an order of the seed, the same with every numpy."""
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable").astype(np.int64)


def _edges(pairs: Sequence[tuple[int, int]]) -> Ints:
    return np.array(pairs, np.int64).reshape(-1, 2).T.copy()


def _ring(first: int, size: int) -> list[tuple[int, int]]:
    return [(first + node, first + (node + 1) % size) for node in range(size)]


def _duplicates(first: int, size: int) -> list[tuple[int, int]]:
    """Repeat the edges of a ring once, twice, three times, and so on, one beside the other and far apart."""
    ring = _ring(first, size - 1)
    return [edge for place, edge in enumerate(ring) for _ in range(1 + place % 3)] + ring[:2]


def _loops(first: int, size: int) -> list[tuple[int, int]]:
    """Give every second node of a ring a self-loop, and leave the last node with nothing else."""
    return _ring(first, size - 1) + [(first + node, first + node) for node in range(size - 1, -1, -2)]


def _permuted() -> Ints:
    """Draw edges inside two graphs and put them in an order that nothing sorts."""
    bits = np.random.PCG64(7).random_raw(120) >> np.uint64(33)
    one, two = (bits[:60] % np.uint64(12)).astype(np.int64), (bits[60:] % np.uint64(7)).astype(np.int64) + 12
    edges = np.concatenate([one.reshape(2, 30), two.reshape(2, 30)], axis=1)
    return np.ascontiguousarray(edges[:, shuffled(60, 8)])


def _mixed() -> Topology:
    """Put a hub, duplicates, self-loops, isolated nodes and components into one batch of graphs of many sizes."""
    sizes = (7, 1, 12, 3, 18, 2)
    hub = [(23 + node, 23) for node in range(1, 15)] + [(23, 30), (31, 30)]
    parts = [
        *_duplicates(0, 7),
        *_loops(8, 12),
        (20, 21), (22, 21), (20, 22),
        *hub,
        *_ring(33, 3),
        (42, 41),
    ]  # fmt: skip
    edges = _edges(parts)
    return Topology(sizes, np.ascontiguousarray(edges[:, shuffled(edges.shape[1], 9)]))
