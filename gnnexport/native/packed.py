"""Rows of numbers of 1, 2, 4 or 8 bits, each row with a width and a step of its own: packed, unpacked, gathered.

Arrays in, arrays out. The kernels serve where they can, else numpy, with the same result to the last bit. How rows lie
in memory, and how they are rounded, stands beside `gnx_packed` in `kernels/include/gnnexport/kernels.h`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from ctypes import Structure, byref, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import KernelError
from gnnexport.native import packed_numpy
from gnnexport.native.kernels import check, threads_of
from gnnexport.native.library import library, why_missing

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Ids = NDArray[np.int64]

WIDTHS = packed_numpy.WIDTHS
GROUP = packed_numpy.GROUP
LEAST_STEP = 1e-8

_WHERE = "packed rows"


@dataclass(frozen=True)
class PackedRows:
    """Rows [rows, columns] as they are stored.

    Args:
        payload: uint8, row behind row.
        step: float32 [rows], what a number is multiplied with; at least 1e-8.
        columns: numbers of a row.
        is_signed: numbers may be negative; not read where there is `zero`.
        codes: uint8 [rows / 4], the logarithm of the bits of each row, four rows a byte; `None` where all have 8.
        anchors: uint64 [rows / 64], the byte that each 64th row begins with; `None` where all have 8 bits.
        zero: uint8 [rows], what stands for 0 in each row: 0, or 128 where its numbers may be negative; only where all
            have 8 bits. `None` for the same in all rows.

    Raises:
        KernelError: an array of another type or length, or not in one piece, of which kernels would read what is none.
    """

    payload: Bytes
    step: Floats
    columns: int
    is_signed: bool = False
    codes: Bytes | None = None
    anchors: NDArray[np.uint64] | None = None
    zero: Bytes | None = None

    def __post_init__(self) -> None:
        count = len(self.step)
        wanted = {
            "payload": (np.uint8, len(self.payload)),
            "step": (np.float32, count),
            "codes": (np.uint8, -(-count // 4)),
            "anchors": (np.uint64, -(-count // GROUP)),
            "zero": (np.uint8, count),
        }
        for name, (kind, length) in wanted.items():
            part = getattr(self, name)
            if part is not None and (part.dtype != kind or part.shape != (length,) or not part.flags.c_contiguous):
                what = f"'{name}' is {part.dtype} {list(part.shape)}"
                raise KernelError.at(_WHERE, what, f"Pass {np.dtype(kind)} [{length}] in one piece")
        coded = self.codes is not None
        if coded != (self.anchors is not None) or (coded and self.zero is not None):
            raise KernelError.at(_WHERE, "some parts do not go together", "Pass codes with anchors, and without zero")

    def __len__(self) -> int:
        return len(self.step)

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers and of all that is noted of them."""
        parts = (self.payload, self.step, self.codes, self.anchors, self.zero)
        return sum(part.nbytes for part in parts if part is not None)

    def take(self, ids: Ids) -> PackedRows:
        """Return a copy of some rows; only where all have 8 bits."""
        assert self.codes is None
        numbers = self.payload.reshape(len(self), self.columns)[ids].reshape(-1)
        zero = None if self.zero is None else self.zero[ids]
        return PackedRows(numbers, self.step[ids], self.columns, self.is_signed, zero=zero)

    @property
    def bits(self) -> NDArray[np.int64]:
        """Return the bits of each row, int64 [rows]."""
        if self.codes is None:
            return np.full(len(self), 8, np.int64)
        return 1 << packed_numpy.codes_of(self.codes, np.arange(len(self)))


def empty_rows(step: Floats, bits: NDArray[Any], columns: int, *, is_signed: bool) -> PackedRows:
    """Lay out rows of these widths; their numbers are to be put in.

    Args:
        step: float32 [rows], at least 1e-8.
        bits: [rows], each 1, 2, 4 or 8.
        columns: numbers of a row.
        is_signed: numbers may be negative.

    Raises:
        KernelError: other steps or widths.
    """
    step = np.ascontiguousarray(step, np.float32)
    if len(bits) != len(step) or not np.isin(bits, WIDTHS).all():
        raise KernelError.at(_WHERE, f"widths other than {list(WIDTHS)}, or not one for each row", "Round them up")
    if not bool((np.isfinite(step) & (step >= np.float32(LEAST_STEP))).all()):
        raise KernelError.at(_WHERE, "a step that is not positive", f"Pass steps of at least {LEAST_STEP}")
    codes, anchors, size = packed_numpy.layout(np.asarray(bits, np.int64), columns)
    return PackedRows(np.zeros(size, np.uint8), step, columns, is_signed, codes, anchors)


def pack(x: Floats, step: Floats, bits: NDArray[Any], *, is_signed: bool, threads: int = 0) -> PackedRows:
    """Round and store rows.

    Args:
        x: float32 [rows, columns].
        step: float32 [rows], at least 1e-8.
        bits: [rows], each 1, 2, 4 or 8.
        is_signed: numbers may be negative; without it those below 0 count as 0.
        threads: to use; 0 for all.

    Raises:
        KernelError: other steps or widths.
    """
    rows = empty_rows(step, bits, x.shape[1], is_signed=is_signed)
    put(rows, x, threads=threads)
    return rows


def pack_bytes(x: Floats, step: Floats | None = None, *, threads: int = 0) -> PackedRows:
    """Round rows to 8 bits, each with a sign of its own.

    Args:
        x: float32 [rows, columns].
        step: float32 [rows]; by default that by which the largest magnitude of a row is its largest number. A row that
            holds NaN or infinity then gets a step that hands it on.
        threads: to use; 0 for all.
    """
    lowest, highest = (reduce(x, axis=1, initial=0) for reduce in (np.min, np.max))
    negative = lowest < 0
    if step is None:
        most = np.where(negative, np.float32(127), np.float32(255))
        step = np.maximum(np.maximum(highest, -lowest) / most, np.float32(LEAST_STEP))
    zero = np.where(negative, np.uint8(128), np.uint8(0))
    rows = PackedRows(np.empty(x.size, np.uint8), step, x.shape[1], zero=zero)
    put(rows, x, threads=threads)
    return rows


def put(rows: PackedRows, x: Floats, ids: Ids | None = None, *, threads: int = 0) -> None:
    """Round rows by the steps and widths that are there, and store them.

    Args:
        rows: that are written to.
        x: float32 [count, columns].
        ids: int64 [count], distinct, which rows these are; `None` for all.
        threads: to use; 0 for all.

    Raises:
        KernelError: an id is out of range, or the arrays do not fit each other.
    """
    _check(rows, x.shape, ids, x.dtype == np.float32)
    if not rows.payload.flags.writeable:
        raise KernelError.at(_WHERE, "they cannot be written", "Copy them first")
    if why_missing() is not None:
        packed_numpy.put(rows, x, _all(rows, ids))
        return
    x, (pointer, ids, count) = np.ascontiguousarray(x), _ids(rows, ids)
    check(_functions().pack(byref(_c(rows)), pointer, count, x.ctypes.data, threads_of(threads)))


def unpack(rows: PackedRows, ids: Ids | None = None, out: Floats | None = None, *, threads: int = 0) -> Floats:
    """Return rows as float32.

    Args:
        rows: that are stored.
        ids: int64 [count], which, in any order and as often as wanted; `None` for all.
        out: float32 [count, columns] to write to.
        threads: to use; 0 for all.

    Raises:
        KernelError: an id is out of range, or the arrays do not fit each other.
    """
    shape = (len(rows) if ids is None else len(ids), rows.columns)
    if out is None:
        out = np.empty(shape, np.float32)
    _check(rows, out.shape, ids, out.dtype == np.float32 and out.shape == shape and out.flags.c_contiguous)
    if why_missing() is not None:
        packed_numpy.unpack(rows, _all(rows, ids), out)
        return out
    pointer, ids, count = _ids(rows, ids)
    check(_functions().unpack(byref(_c(rows)), pointer, count, out.ctypes.data, threads_of(threads)))
    return out


def unpack_levels(rows: PackedRows, ids: Ids | None = None, *, threads: int = 0) -> Bytes:
    """Return the numbers of rows without their steps, with 128 added where a row's may be negative.

    Args:
        rows: that are stored.
        ids: int64 [count], which; `None` for all.
        threads: to use; 0 for all.

    Returns:
        uint8 [count, columns], as products of u8 and s8 take them.

    Raises:
        KernelError: an id is out of range.
    """
    out = np.empty((len(rows) if ids is None else len(ids), rows.columns), np.uint8)
    _check(rows, out.shape, ids, fits=True)
    if why_missing() is not None:
        packed_numpy.levels(rows, _all(rows, ids), out)
        return out
    pointer, ids, count = _ids(rows, ids)
    check(_functions().levels(byref(_c(rows)), pointer, count, out.ctypes.data, threads_of(threads)))
    return out


def why_unsound(rows: PackedRows) -> str | None:
    """Tell what of rows that were read from a file does not fit the rest, or return `None`."""
    step = rows.step
    if not bool((np.isfinite(step) & (step >= np.float32(LEAST_STEP))).all()):
        return "a step is not positive"
    if rows.codes is None:
        sound = len(rows.payload) == len(rows) * rows.columns
        if rows.zero is not None and not np.isin(rows.zero, (0, 128)).all():
            return "a zero is neither 0 nor 128"
        return None if sound else f"{len(rows)} rows do not fit {len(rows.payload)} bytes"
    _, anchors, size = packed_numpy.layout(rows.bits, rows.columns)
    if size != len(rows.payload) or rows.anchors is None or not np.array_equal(anchors, rows.anchors):
        return "anchors and widths do not fit the rows"
    return None


class _Packed(Structure):
    _fields_ = (
        ("payload", c_void_p),
        ("codes", c_void_p),
        ("anchors", c_void_p),
        ("step", c_void_p),
        ("zero", c_void_p),
        ("num_rows", c_int64),
        ("columns", c_int64),
        ("payload_bytes", c_int64),
        ("is_signed", c_int32),
    )


def _c(rows: PackedRows) -> _Packed:
    parts = (rows.payload, rows.codes, rows.anchors, rows.step, rows.zero)
    pointers = (None if part is None else part.ctypes.data for part in parts)
    return _Packed(*pointers, len(rows), rows.columns, rows.payload.nbytes, rows.is_signed)


def _check(rows: PackedRows, shape: tuple[int, ...], ids: Ids | None, fits: bool) -> None:
    count = len(rows) if ids is None else len(ids)
    if not fits or shape != (count, rows.columns):
        wanted = f"float32 [{count}, {rows.columns}] in one piece"
        raise KernelError.at(_WHERE, f"other numbers, or {list(shape)} of them", f"Pass {wanted}")


def _ids(rows: PackedRows, ids: Ids | None) -> tuple[int | None, Ids | None, int]:
    """Return a pointer to ids, what it points to, and how many there are."""
    if ids is None:
        return None, None, len(rows)
    ids = np.ascontiguousarray(ids, np.int64)
    return ids.ctypes.data, ids, len(ids)


def _all(rows: PackedRows, ids: Ids | None) -> Ids:
    """Return ids that are in range."""
    if ids is None:
        return np.arange(len(rows))
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= len(rows)):
        raise KernelError.at(_WHERE, "an id is out of range", f"Number rows from 0 to {len(rows) - 1}")
    return ids


@dataclass(frozen=True, slots=True)
class _Functions:
    """The entries of the library, told what they take."""

    pack: Callable[..., int]
    unpack: Callable[..., int]
    levels: Callable[..., int]


@functools.cache
def _functions() -> _Functions:
    opened: Any = library()
    found = [getattr(opened, name) for name in ("gnx_pack_rows", "gnx_unpack_rows", "gnx_unpack_levels")]
    for function in found:
        function.argtypes = [c_void_p, c_void_p, c_int64, c_void_p, c_void_p]
    return _Functions(*found)
