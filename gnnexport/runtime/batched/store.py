"""Rows of one stage that are kept between requests, within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.stages import StoreBits
from gnnexport.native.packed import PackedRows
from gnnexport.runtime.batched.growing import Ids
from gnnexport.runtime.batched.kept_rows import ByteRows, FloatRows, Rows, row_bytes

_UP_TO_DATE, _ABSENT = 1 << 62, -(1 << 62)
_NEVER_EVICTED = 1 << 62

_MAP_BYTES = 4
"""Of a node, in the map from nodes to rows."""

_MARK_BYTES = 32
"""Of a row besides its numbers: its node, when it was last read, since when it is out of date, whether it is free."""

_EVICTED_SHARE = 8
_SPARE_SHARE = 4


@dataclass(frozen=True)
class Found:
    """What a store has of some nodes.

    Args:
        mask: of the nodes, which are there.
        rows: of these, float32 [found, width].
        current: none of these is out of date.
    """

    mask: NDArray[np.bool_]
    rows: Rows
    current: bool


def share_out(budget_bytes: int, wanted_bytes: Sequence[int]) -> list[int]:
    """Divide a budget evenly; what one does not want goes to the others."""
    shares = [0] * len(wanted_bytes)
    left = budget_bytes
    for done, place in enumerate(sorted(range(len(wanted_bytes)), key=wanted_bytes.__getitem__)):
        shares[place] = min(wanted_bytes[place], left // (len(wanted_bytes) - done))
        left -= shares[place]
    return shares


def wanted_bytes(num_nodes: int, width: int, bits: StoreBits = 32) -> int:
    """Return how much room the rows of all nodes take, and those of some nodes to come."""
    return _with_spare(num_nodes) * _row_bytes(width, bits)


class RowStore:
    """A row for each node where there is room for all, else for those read last.

    Where room is wanted, rows that are out of date go first, then those whose last read is longest ago: an eighth of
    all at once. A row is out of date since the first version of the graph that it does not show. Any number of threads
    may look rows up and put rows in; nobody may while the graph changes.
    """

    def __init__(self, num_nodes: int, width: int, limit_bytes: int, bits: StoreBits = 32) -> None:
        """Make an empty store.

        Args:
            num_nodes: of the graph.
            width: of a row.
            limit_bytes: of memory, for all that the store holds.
            bits: of a number.
        """
        self.bits = bits
        self._lock = Lock()
        self._limit = limit_bytes
        self._width = width
        self._clock = 0
        self.evicted = 0
        self._allocate(num_nodes)

    @property
    def table(self) -> Rows:
        """Return the rows of all nodes; only of a store of float32 that is whole."""
        assert isinstance(self._rows, FloatRows)
        return self._rows.array

    def read(self, nodes: Ids, threads: int = 0) -> Rows:
        """Return the rows of some nodes that are there; only of a store that is whole."""
        return self._rows.read(nodes, threads)

    @property
    def capacity(self) -> int:
        """How many rows there is room for."""
        return len(self._rows)

    @property
    def size_bytes(self) -> int:
        """Memory that rows, their marks and the map take when the store is full."""
        return self.capacity * _row_bytes(self._width, self.bits) + self._row_of.nbytes

    def has(self, nodes: Ids, oldest: int | None = None) -> NDArray[np.bool_]:
        """Tell which nodes have a row that is up to date, or that shows a version from `oldest` on."""
        with self._lock:
            return self._usable(self._places(nodes), oldest)

    def fetch(self, nodes: Ids, oldest: int | None = None) -> Found:
        """Return a copy of the rows of those nodes that `has` tells of."""
        with self._lock:
            places = self._places(nodes)
            mask = self._usable(places, oldest)
            places = places[mask]
            self._clock += 1
            self._last_read[places] = self._clock
            current = bool((self._since[places] == _UP_TO_DATE).all())
            return Found(mask, self._rows.read(places), current)

    def put(self, nodes: Ids, rows: Rows | PackedRows) -> None:
        """Keep up-to-date rows of distinct nodes. One that is there already stays, as somebody may be reading it.

        Args:
            nodes: int64 [count].
            rows: float32 [count, width], or as `pack_bytes` gives them; a store of 8 bits rounds the former.
        """
        with self._lock:
            chosen = np.flatnonzero(~self._usable(self._places(nodes), None))
            if not self.whole:
                chosen = chosen[: self.capacity]
                self._make_places(nodes[chosen])
            places = self._places(nodes[chosen])
            self._rows.write(places, rows, chosen)
            self._since[places] = _UP_TO_DATE

    def invalidate(self, nodes: Ids, version: int) -> None:
        """Mark the rows of some nodes as out of date since this version, unless they were before."""
        places = self._places(nodes)
        places = places[places >= 0]
        self._since[places] = np.minimum(self._since[places], version)

    def grow(self, num_nodes: int) -> None:
        """Have room for the rows of more nodes; where that has to be made, rows that are out of date are lost."""
        if num_nodes <= self._most_nodes:
            return
        places = np.flatnonzero(self._since == _UP_TO_DATE)
        places = places[np.argsort(-self._last_read[places], kind="stable")]
        nodes, rows = self._node_of[places] if not self.whole else places, self._rows.taken(places)
        self._allocate(num_nodes)
        self.put(nodes, rows)

    def _allocate(self, num_nodes: int) -> None:
        self._most_nodes = _with_spare(num_nodes)
        self.whole = self._limit >= wanted_bytes(num_nodes, self._width, self.bits)
        fitting = max((self._limit - _MAP_BYTES * self._most_nodes) // _row_bytes(self._width, self.bits), 0)
        capacity = self._most_nodes if self.whole else min(fitting, self._most_nodes)
        self._row_of = np.full(self._most_nodes if capacity and not self.whole else 0, -1, np.int32)
        self._rows = (FloatRows if self.bits == 32 else ByteRows)(capacity, self._width)
        self._since = np.full(capacity, _ABSENT, np.int64)
        self._last_read = np.zeros(capacity, np.int64)
        self._node_of = np.full(capacity, -1, np.int64)
        self._free = np.arange(capacity)[::-1]

    def _places(self, nodes: Ids) -> Ids:
        """Return the row of each node, -1 for none."""
        if self.whole:
            return nodes
        return self._row_of[nodes].astype(np.int64) if self.capacity else np.full(len(nodes), -1)

    def _usable(self, places: Ids, oldest: int | None) -> NDArray[np.bool_]:
        there = places >= 0
        first = _UP_TO_DATE if oldest is None else oldest + 1
        there[there] = self._since[places[there]] >= first
        return there

    def _make_places(self, nodes: Ids) -> None:
        """Give each of these nodes a row, where it has none."""
        places = self._places(nodes)
        lacking = nodes[places < 0]
        self._clock += 1
        self._last_read[places[places >= 0]] = _NEVER_EVICTED
        if len(lacking) > len(self._free):
            self._evict(max(len(lacking) - len(self._free), self.capacity // _EVICTED_SHARE))
        left = len(self._free) - len(lacking)
        self._row_of[lacking], self._node_of[self._free[left:]] = self._free[left:], lacking
        self._free = self._free[:left]
        self._last_read[self._places(nodes)] = self._clock

    def _evict(self, count: int) -> None:
        order = np.where(self._since == _UP_TO_DATE, self._last_read, -1)
        order[self._last_read == _NEVER_EVICTED] = _NEVER_EVICTED
        order[self._free] = _NEVER_EVICTED
        count = min(count, int((order < _NEVER_EVICTED).sum()))
        places = np.argpartition(order, count - 1)[:count]
        self._row_of[self._node_of[places]] = -1
        self._since[places], self._node_of[places] = _ABSENT, -1
        self._free = np.concatenate([self._free, places])
        self.evicted += count


def _row_bytes(width: int, bits: StoreBits) -> int:
    return row_bytes(width, bits) + _MARK_BYTES


def _with_spare(num_nodes: int) -> int:
    return num_nodes + num_nodes // _SPARE_SHARE + 1
