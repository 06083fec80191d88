"""What `gnnexport.native.neighbours` does where the kernels cannot serve: the same, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import KernelError

Ids = NDArray[np.int64]

_WHERE = "neighbours"
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def expand(
    start: Ids, length: Ids, col: Ids, targets: Ids, fanout: int | None, seed: int, num_src: int
) -> tuple[Ids, Ids, Ids]:
    """Return `rowptr`, `col` and `slots` of the neighbours of some targets.

    Raises:
        KernelError: a number is out of range.
    """
    _check_range(targets, len(start), "a target")
    begin, count = start[targets], length[targets]
    if bool(np.any((begin < 0) | (count < 0) | (begin > len(col) - count))):
        raise KernelError.at(_WHERE, "a row has slots that there are not", "Pass starts and lengths inside of col")
    drawn = count if fanout is None else np.minimum(count, fanout)
    rowptr = np.zeros(len(targets) + 1, np.int64)
    np.cumsum(drawn, out=rowptr[1:])
    slots = np.arange(rowptr[-1], dtype=np.int64) + np.repeat(begin - rowptr[:-1], drawn)
    if fanout:
        rows = np.flatnonzero(count > fanout)
        places = rowptr[rows, None] + np.arange(fanout)
        slots[places] = begin[rows, None] + _draw(targets[rows], count[rows], fanout, seed)
    sources = col[slots]
    _check_range(sources, num_src, "a neighbour")
    return rowptr, sources, slots


def number(ids: Ids, bound: int) -> tuple[Ids, Ids]:
    """Return the distinct ids in the order they first come, and for each id its number.

    Raises:
        KernelError: an id is out of range.
    """
    _check_range(ids, bound, "an id")
    order = np.arange(len(ids))
    place = np.empty(bound, np.int64)
    # Of several values for one place the last one stays: the first that there is of an id.
    place[ids[::-1]] = order[::-1]
    unique = ids[place[ids] == order].astype(np.int64)
    place[unique] = order[: len(unique)]
    return unique, place[ids]


def gather_rows(table: NDArray[np.float32], ids: Ids, out: NDArray[np.float32]) -> None:
    """Write rows of a table to `out`.

    Raises:
        KernelError: an id is out of range.
    """
    _check_range(ids, len(table), "an id")
    np.take(table, ids, axis=0, out=out, mode="clip")


def _draw(rows: Ids, count: Ids, fanout: int, seed: int) -> Ids:
    """Draw `fanout` of `count` numbers for each row, without replacement (Floyd: Bentley, CACM 30(9), 1987), in order.

    Numbers come from splitmix64 (Steele, Lea and Flood, OOPSLA 2014) over seed, row and draw.
    """
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^64
        key = _mixed(_mixed(np.asarray(seed, np.uint64) + _STEP) + (rows.astype(np.uint64) + np.uint64(1)) * _STEP)
        drawn = np.empty((len(rows), fanout), np.int64)
        for place in range(fanout):
            last = count - fanout + place
            key = key + _STEP
            uniform = (_mixed(key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
            number = (uniform * (last + 1).astype(np.float64)).astype(np.int64)
            taken = (drawn[:, :place] == number[:, None]).any(axis=1)
            drawn[:, place] = np.where(taken, last, number)
    drawn.sort(axis=1)
    return drawn


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    return value ^ (value >> np.uint64(31))


def _check_range(numbers: Ids, bound: int, what: str) -> None:
    if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= bound):
        raise KernelError.at(_WHERE, f"{what} is out of range", f"Number from 0 to {bound - 1}")
