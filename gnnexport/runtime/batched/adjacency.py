"""Neighbours by destination that slots are added to and taken from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.native.neighbours import Block, expand
from gnnexport.runtime.batched.growing import Growing, Ids, ranges

_LEAST_ROOM = 4
_SPARE_SLOTS = 1024


class Adjacency:
    """Rows of slots. A row that outgrows its room moves to the end, with as much room to spare as it has slots.

    Args:
        rowptr: int64 [nodes + 1].
        col: int64 [slots], the source of each slot.
        values: of the slots, [slots, …], by name; they move with them.
    """

    def __init__(self, rowptr: Ids, col: Ids, values: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._start = Growing(rowptr[:-1])
        self._length = Growing(np.diff(rowptr))
        self._room = Growing(np.diff(rowptr))
        self._owned = False
        self.col = col
        self.values = dict(values or {})
        self._end = len(col)

    @property
    def num_nodes(self) -> int:
        """How many rows there are."""
        return len(self._start.array)

    @property
    def length(self) -> Ids:
        """How many slots each row has."""
        return self._length.array

    def slots_of(self, rows: Ids) -> Ids:
        """Return where the slots of some rows stand, row after row."""
        return ranges(self._start.array[rows], self._length.array[rows])

    def neighbours(
        self, rows: Ids, fanout: int | None = None, seed: int = 0, *, slots: bool = True, threads: int = 0
    ) -> Block:
        """Return the slots of some rows, or some of them drawn; see `gnnexport.native.neighbours`."""
        start, length = self._start.array, self._length.array
        return expand(start, length, self.col, rows, fanout=fanout, seed=seed, slots=slots, threads=threads)

    def add_nodes(self, count: int) -> None:
        """Add rows without slots."""
        self._own()
        for part in (self._start, self._length, self._room):
            part.extend(np.zeros(count, np.int64))

    def add(self, rows: Ids, sources: Ids, values: Mapping[str, NDArray[Any]], *, behind: int = 0) -> None:
        """Add slots, at the end of each row in the order given.

        Args:
            rows: int64 [added], the row of each slot.
            sources: int64 [added].
            values: [added, …] for each of the values.
            behind: how many slots at the end of a row stay behind those added.
        """
        self._own()
        order = np.argsort(rows, kind="stable")
        touched, first, added = np.unique(rows[order], return_index=True, return_counts=True)
        self._make_room(touched, added)
        start, length = self._start.array[touched], self._length.array[touched]
        for last in range(1, behind + 1):
            old = start + length - last
            self._copy(old, old + added)
        place = np.arange(len(rows)) - np.repeat(first, added) + np.repeat(start + length - behind, added)
        self.col[place] = sources[order]
        for name, array in self.values.items():
            array[place] = values[name][order]
        self._length.array[touched] += added

    def remove(self, rows: Ids, sources: Ids) -> None:
        """Take out the first slots of these pairs; each pair is there as often as it is given."""
        self._own()
        touched = np.unique(rows)
        slots, row_of = self.slots_of(touched), np.repeat(touched, self._length.array[touched])
        leaves = self._leaving(row_of, self.col[slots], rows, sources)
        kept = np.bincount(np.searchsorted(touched, row_of[~leaves]), minlength=len(touched))
        self._copy(slots[~leaves], ranges(self._start.array[touched], kept))
        self._length.array[touched] = kept

    def has(self, rows: Ids, sources: Ids) -> NDArray[np.bool_]:
        """Tell of each pair whether there is a slot for it; a pair given twice needs two."""
        touched = np.unique(rows)
        row_of = np.repeat(touched, self._length.array[touched])
        there = self._keys(row_of, self.col[self.slots_of(touched)])
        wanted = self._keys(rows, sources)
        known, counts = np.unique(there, return_counts=True)
        place = np.searchsorted(known, wanted)
        found = np.zeros(len(wanted), np.int64)
        inside = place < len(known)
        found[inside] = np.where(known[place[inside]] == wanted[inside], counts[place[inside]], 0)
        return _rank(wanted) < found

    def transposed(self) -> Adjacency:
        """Return by source which rows read it, as often as they do."""
        rows = np.arange(self.num_nodes)
        targets, sources = np.repeat(rows, self.length), self.col[self.slots_of(rows)]
        rowptr = np.zeros(self.num_nodes + 1, np.int64)
        np.cumsum(np.bincount(sources, minlength=self.num_nodes), out=rowptr[1:])
        return Adjacency(rowptr, targets[np.argsort(sources, kind="stable")])

    def _keys(self, rows: Ids, sources: Ids) -> Ids:
        return rows * self.num_nodes + sources

    def _leaving(self, row_of: Ids, col: Ids, rows: Ids, sources: Ids) -> NDArray[np.bool_]:
        """Mark, of all slots of the rows touched, the first of each pair, as often as it is given."""
        pairs, counts = np.unique(self._keys(rows, sources), return_counts=True)
        there = self._keys(row_of, col)
        place = np.minimum(np.searchsorted(pairs, there), len(pairs) - 1)
        leaves: NDArray[np.bool_] = (pairs[place] == there) & (_rank(there) < counts[place])
        return leaves

    def _make_room(self, rows: Ids, added: Ids) -> None:
        """Move the rows that so many slots more do not fit into."""
        wanted = self._length.array[rows] + added
        moves = wanted > self._room.array[rows]
        rows, wanted = rows[moves], wanted[moves]
        if not len(rows):
            return
        room = np.maximum(2 * wanted, _LEAST_ROOM)
        total = int(room.sum())
        if self._end + total > len(self.col):
            self._lay_out(total)
        start = self._end + np.cumsum(room) - room
        length = self._length.array[rows]
        self._copy(self.slots_of(rows), ranges(start, length))
        self._start.array[rows], self._room.array[rows] = start, room
        self._end += total

    def _lay_out(self, spare: int) -> None:
        """Lay all rows out anew, without gaps between their rooms, and with room behind them."""
        rows = np.arange(self.num_nodes)
        old, room = self.slots_of(rows), self._room.array
        start = np.cumsum(room) - room
        new, used = ranges(start, self._length.array), int(room.sum())
        size = used + 2 * spare + used // 4 + _SPARE_SLOTS
        self.col = _moved(self.col, old, new, size)
        self.values = {name: _moved(array, old, new, size) for name, array in self.values.items()}
        self._start.array[:] = start
        self._end = used

    def _copy(self, old: Ids, new: Ids) -> None:
        for array in (self.col, *self.values.values()):
            array[new] = array[old]

    def _own(self) -> None:
        """Copy what was given before it is changed for the first time."""
        if not self._owned:
            self._start, self._length = Growing(self._start.array.copy()), Growing(self._length.array.copy())
            self.col = self.col.copy()
            self.values = {name: array.copy() for name, array in self.values.items()}
            self._owned = True


def _moved(array: NDArray[Any], old: Ids, new: Ids, size: int) -> NDArray[Any]:
    moved = np.zeros((size, *array.shape[1:]), array.dtype)
    moved[new] = array[old]
    return moved


def _rank(keys: Ids) -> Ids:
    """Count for each key how many equal ones stand before it."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[begins, len(keys)])
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys)) - np.repeat(begins, lengths)
    return rank
