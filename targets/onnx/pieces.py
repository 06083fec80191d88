"""Cut the rows of a CSR structure into pieces of few distinct lengths, so that each length is one dense table.

Rows of a frequent degree form one bucket each, without any padding. The rest, hubs and rare degrees, are
decomposed into pieces whose lengths are powers of two; their partial results are reduced once more. So the
number of operators depends on neither the largest degree nor the number of distinct degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

LONGEST = 64
"""Length of the longest piece; a longer table no longer pays, whatever the degree."""

FREQUENT = 64
"""Rows that a degree needs for a bucket of its own: below, two more operators cost more than partial results."""

SLACK = 1.3
"""Padding allowed in the tables of partial results, which are small."""


@dataclass(frozen=True)
class Pieces:
    """The rows of a structure, cut.

    Args:
        empty: number of rows without slots; they come first.
        direct: tables [rows, degree] of slots, one for each frequent degree; rows in `order`.
        partial: tables [pieces, length] of slots; the partial results of the rows that were decomposed.
        second: tables [rows, width] of partial results, in `order`; -1 where a row has fewer.
        order: int64 [num_rows], the rows in the order in which `empty`, `direct` and `second` give them.
    """

    empty: int
    direct: tuple[Ints, ...]
    partial: tuple[Ints, ...]
    second: tuple[Ints, ...]
    order: Ints

    @property
    def slot_order(self) -> Ints:
        """Slots in the order in which `direct` and `partial` read them: each slot once."""
        tables = [table.reshape(-1) for table in (*self.direct, *self.partial)]
        return np.concatenate(tables) if tables else np.zeros(0, np.int64)

    @property
    def table_count(self) -> int:
        """Number of tables, each of which costs a few operators."""
        return len(self.direct) + len(self.partial) + len(self.second)


def cut(rowptr: NDArray[np.integer], frequent: int = FREQUENT, longest: int = LONGEST) -> Pieces:
    """Cut the rows of a structure.

    Args:
        rowptr: CSR pointers [num_rows + 1].
        frequent: rows that a degree needs for a bucket of its own.
        longest: greatest degree of such a bucket and greatest length of a piece; a power of two.
    """
    start = np.asarray(rowptr[:-1], np.int64)
    degree: Ints = np.asarray(rowptr[1:], np.int64) - start
    count = np.bincount(degree, minlength=longest + 1)
    degrees = [int(d) for d in range(1, longest + 1) if count[d] >= frequent]
    rows = {d: np.flatnonzero(degree == d) for d in degrees}
    empty = np.flatnonzero(degree == 0)
    rest = np.flatnonzero((degree > 0) & ~np.isin(degree, degrees))
    owner, partial = _decompose(start[rest], degree[rest], longest)
    rank, second = _second_level(owner, len(rest))
    return Pieces(
        empty=len(empty),
        direct=tuple(start[rows[d]][:, None] + np.arange(d) for d in degrees),
        partial=partial,
        second=second,
        order=np.concatenate([empty, *(rows[d] for d in degrees), rest[rank]]).astype(np.int64),
    )


def _decompose(start: Ints, degree: Ints, longest: int) -> tuple[Ints, tuple[Ints, ...]]:
    """Return for each piece the position of its row, and the tables of slots by falling length."""
    owners: list[Ints] = []
    tables: list[Ints] = []
    start, left = start.copy(), degree.copy()
    length = longest
    while length:
        times = left // length if length == longest else (left >= length).astype(np.int64)
        owner = np.repeat(np.arange(len(left)), times)
        if len(owner):
            nth = np.arange(len(owner)) - np.repeat(np.cumsum(times) - times, times)
            tables.append((start[owner] + nth * length)[:, None] + np.arange(length))
            owners.append(owner)
        start += times * length
        left -= times * length
        length //= 2
    return np.concatenate(owners) if owners else np.zeros(0, np.int64), tuple(tables)


def _second_level(owner: Ints, num_rows: int) -> tuple[Ints, tuple[Ints, ...]]:
    """Return the rows by rising number of pieces, and the tables of their pieces in that order."""
    count = np.bincount(owner, minlength=num_rows)
    rank = np.argsort(count, kind="stable")
    by_row = np.argsort(owner, kind="stable")
    first = np.cumsum(count) - count
    tables: list[Ints] = []
    begin = 0
    while begin < num_rows:
        end = _group_end(count[rank], begin)
        rows = rank[begin:end]
        width = int(count[rows].max())
        column = np.arange(width)
        inside = column < count[rows][:, None]
        table = np.full((len(rows), width), -1, np.int64)
        table[inside] = by_row[(first[rows][:, None] + column)[inside]]
        tables.append(table)
        begin = end
    return rank, tuple(tables)


def _group_end(count: Ints, begin: int) -> int:
    """Take rows, sorted by their number of pieces, as long as padding them to the widest stays cheap."""
    widths = count[begin:]
    padded = widths * np.arange(1, len(widths) + 1)
    wasteful = padded > SLACK * np.cumsum(widths) + FREQUENT
    return begin + (int(np.argmax(wasteful)) if wasteful.any() else len(widths))
