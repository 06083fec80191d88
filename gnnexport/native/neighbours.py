"""Find the neighbours of some nodes, number their sources, and gather the rows that these name.

Arrays in, arrays out. The kernels serve where they can, else numpy, with the same result to the last bit: which
neighbours are drawn depends on the seed and the node alone, not on who draws, on threads or on the other nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from ctypes import Structure, byref, c_int64, c_uint64, c_void_p
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import KernelError
from gnnexport.native import neighbours_numpy
from gnnexport.native.kernels import check, threads_of
from gnnexport.native.library import library, why_missing

Ids = NDArray[np.int64]
Marks = NDArray[np.int32]
Rows = NDArray[np.float32]

_SEEDS = 1 << 64
_WHERE = "neighbours"


@dataclass(frozen=True, slots=True)
class Block:
    """The neighbours of some targets.

    Args:
        rowptr: int64 [targets + 1], where the neighbours of each target begin.
        col: int64 [slots], the source that each slot reads, as the structure numbers it.
        slots: int64 [slots], where each slot stands in the structure.
    """

    rowptr: Ids
    col: Ids
    slots: Ids


class _Rows(Structure):
    _fields_ = (
        ("start", c_void_p),
        ("length", c_void_p),
        ("col", c_void_p),
        ("num_rows", c_int64),
        ("num_slots", c_int64),
        ("num_src", c_int64),
    )


class _Request(Structure):
    _fields_ = (
        ("rows", _Rows),
        ("targets", c_void_p),
        ("num_targets", c_int64),
        ("fanout", c_int64),
        ("seed", c_uint64),
    )


def expand(
    start: Ids,
    length: Ids,
    col: Ids,
    targets: Ids,
    *,
    fanout: int | None = None,
    seed: int = 0,
    num_src: int | None = None,
    slots: bool = True,
    threads: int = 0,
) -> Block:
    """Return the neighbours of some targets, all of them or some drawn.

    Args:
        start: int64 [nodes], where the slots of each node begin in `col`: rows may lie anywhere.
        length: int64 [nodes], how many slots each node has.
        col: int64 [slots of the structure], the source of each slot.
        targets: int64 [targets]; a node may come more than once.
        fanout: most slots of a target, drawn uniformly without replacement and left in order; `None` for all.
        seed: of the draws.
        num_src: how many sources there are; as many as nodes unless told.
        slots: tell where slots stand; without it `Block.slots` is empty where all of them are taken.
        threads: to use; 0 for all.

    Raises:
        KernelError: a number is out of range.
    """
    sources = len(start) if num_src is None else num_src
    if fanout is not None and fanout < 0:
        raise KernelError.at(_WHERE, f"a fan-out of {fanout}", "Pass 0 or more, or None for all neighbours")
    if why_missing() is not None:
        block = Block(*neighbours_numpy.expand(start, length, col, targets, fanout, seed % _SEEDS, sources))
        return block if slots or fanout is not None else replace(block, slots=block.slots[:0])
    start, length, col, targets = (np.ascontiguousarray(part, np.int64) for part in (start, length, col, targets))
    if len(start) != len(length):
        raise KernelError.at(_WHERE, f"{len(start)} starts and {len(length)} lengths", "Pass one of each for a node")
    rows = _Rows(start.ctypes.data, length.ctypes.data, col.ctypes.data, len(start), len(col), sources)
    fan = -1 if fanout is None else fanout
    request = byref(_Request(rows, targets.ctypes.data, len(targets), fan, seed % _SEEDS))
    rowptr = np.empty(len(targets) + 1, np.int64)
    call = _functions()
    check(call.count(request, rowptr.ctypes.data))
    count = int(rowptr[-1])
    found = np.empty(count, np.int64)
    places = np.empty(count if slots or fanout is not None else 0, np.int64)
    into = places.ctypes.data if len(places) == count else None
    check(call.expand(request, rowptr.ctypes.data, found.ctypes.data, into, threads_of(threads)))
    return Block(rowptr, found, places)


def number(ids: Ids, marks: Marks) -> tuple[Ids, Ids]:
    """Number ids in the order they first come.

    Args:
        ids: int64 [count].
        marks: int32 [nodes], -1 everywhere; so again afterwards, unless a thread reads it meanwhile.

    Returns:
        The distinct ids, and for each id its number.

    Raises:
        KernelError: an id is out of range, or `marks` was not -1.
    """
    if why_missing() is not None:
        return neighbours_numpy.number(ids, len(marks))
    ids = np.ascontiguousarray(ids, np.int64)
    unique, index = np.empty((2, len(ids)), np.int64)
    count = c_int64()
    pointers = (unique.ctypes.data, index.ctypes.data, byref(count))
    check(_functions().number(ids.ctypes.data, len(ids), marks.ctypes.data, len(marks), *pointers))
    return unique[: count.value], index


def gather_rows(table: Rows, ids: Ids, out: Rows | None = None, *, threads: int = 0) -> Rows:
    """Return rows of a table, by several threads where they are many.

    Args:
        table: float32 [rows, width].
        ids: int64 [count].
        out: float32 [count, width] to write to.
        threads: to use; 0 for all.

    Raises:
        KernelError: an id is out of range, or the arrays do not fit each other.
    """
    shape = (len(ids), table.shape[1])
    if out is None:
        out = np.empty(shape, np.float32)
    if table.dtype != np.float32 or out.dtype != np.float32 or out.shape != shape or not out.flags.c_contiguous:
        what = f"rows {table.dtype} {list(table.shape)} into {out.dtype} {list(out.shape)}"
        raise KernelError.at(_WHERE, what, f"Pass float32 tables, and room for float32 {list(shape)} in one piece")
    if why_missing() is not None or not table.flags.c_contiguous:
        neighbours_numpy.gather_rows(table, ids, out)
        return out
    ids = np.ascontiguousarray(ids, np.int64)
    pointers = (ids.ctypes.data, len(ids), out.ctypes.data, threads_of(threads))
    check(_functions().gather(table.ctypes.data, *table.shape, *pointers))
    return out


@dataclass(frozen=True, slots=True)
class _Functions:
    """The entries of the library, told what they take: so `ctypes` calls them without a wrapper for each argument."""

    count: Callable[..., int]
    expand: Callable[..., int]
    number: Callable[..., int]
    gather: Callable[..., int]


@functools.cache
def _functions() -> _Functions:
    opened: Any = library()
    pointer, size = c_void_p, c_int64
    takes = {
        "gnx_count_neighbours": [pointer, pointer],
        "gnx_expand": [pointer, pointer, pointer, pointer, pointer],
        "gnx_number": [pointer, size, pointer, size, pointer, pointer, pointer],
        "gnx_gather_rows": [pointer, size, size, pointer, size, pointer, pointer],
    }
    for name, arguments in takes.items():
        getattr(opened, name).argtypes = arguments
    return _Functions(*(getattr(opened, name) for name in takes))
