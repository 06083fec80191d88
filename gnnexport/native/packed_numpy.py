"""What `gnnexport.native.packed` does where the kernels cannot serve: the same, in numpy; and how rows are laid out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gnnexport.native.packed import PackedRows

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Ids = NDArray[np.int64]

WIDTHS = (1, 2, 4, 8)
"""Bits that a number of a row may have."""

GROUP = 64
"""Rows of which one stands in the list of anchors."""

_PER_CODE = 4
_MOST_NUMBERS = 1 << 22
"""Numbers of a part that is treated at once."""


def layout(bits: NDArray[np.int64], columns: int) -> tuple[Bytes, NDArray[np.uint64], int]:
    """Return codes, anchors and the bytes of the payload of rows of these widths, each one of `WIDTHS`."""
    code = np.log2(bits).astype(np.uint8) if len(bits) else np.zeros(0, np.uint8)
    padded = np.zeros(-(-len(code) // _PER_CODE) * _PER_CODE, np.uint8)
    padded[: len(code)] = code
    codes = (padded.reshape(-1, _PER_CODE) << np.arange(0, 8, 2, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    end = np.cumsum(row_bytes(code, columns))
    begin = end - row_bytes(code, columns)
    return codes, begin[::GROUP].astype(np.uint64), int(end[-1]) if len(end) else 0


def row_bytes(codes: NDArray[np.integer], columns: int) -> Ids:
    """Return how many bytes a row of each code takes."""
    return (np.left_shift(columns, codes.astype(np.int64)) + 7) // 8


def codes_of(codes: Bytes, ids: Ids) -> Ids:
    """Return the code of each of these rows."""
    found: Ids = (codes[ids // _PER_CODE] >> (ids % _PER_CODE * 2).astype(np.uint8)).astype(np.int64) & 3
    return found


def put(rows: PackedRows, x: Floats, ids: Ids) -> None:
    """Round rows and write them to the payload; ids are in range and distinct."""
    for begin, end in _parts(rows, len(ids)):
        chosen = ids[begin:end]
        offset, code, zero = _places(rows, chosen)
        for each in np.unique(code):
            of_code = np.flatnonzero(code == each)
            stored = _rounded(x[begin:end][of_code], rows.step[chosen[of_code]], int(each), zero[of_code])
            into = offset[of_code, None] + np.arange(int(row_bytes(each[None], rows.columns)[0]))
            rows.payload[into] = _joined(stored, int(each))


def unpack(rows: PackedRows, ids: Ids, out: Floats) -> None:
    """Write rows as float32; ids are in range."""
    for begin, end in _parts(rows, len(ids)):
        numbers, zero = _stored(rows, ids[begin:end])
        whole = numbers.astype(np.int32) - zero[:, None].astype(np.int32)
        # A step may be infinite or no number, which is handed on.
        with np.errstate(invalid="ignore"):
            np.multiply(whole.astype(np.float32), rows.step[ids[begin:end], None], out=out[begin:end])


def levels(rows: PackedRows, ids: Ids, out: Bytes) -> None:
    """Write the numbers of rows without their steps; ids are in range."""
    for begin, end in _parts(rows, len(ids)):
        numbers, zero = _stored(rows, ids[begin:end])
        out[begin:end] = numbers + np.where(zero > 0, 128 - zero, 0).astype(np.uint8)[:, None]


def _parts(rows: PackedRows, count: int) -> list[tuple[int, int]]:
    each = max(_MOST_NUMBERS // max(rows.columns, GROUP), 1)  # a row is found by the widths of a group
    return [(begin, min(begin + each, count)) for begin in range(0, count, each)]


def _places(rows: PackedRows, ids: Ids) -> tuple[Ids, Ids, Ids]:
    """Return the first byte, the code and the zero of each row."""
    if rows.codes is None or rows.anchors is None:
        code = np.full(len(ids), 3)
        zero = np.full(len(ids), 128 * rows.is_signed) if rows.zero is None else rows.zero[ids].astype(np.int64)
        return ids * rows.columns, code, zero
    group, place = ids // GROUP, ids % GROUP
    around = np.minimum(group[:, None] * GROUP + np.arange(GROUP), len(rows) - 1)
    before = np.where(np.arange(GROUP) < place[:, None], row_bytes(codes_of(rows.codes, around), rows.columns), 0).sum(
        axis=1
    )
    code = codes_of(rows.codes, ids)
    zero = np.where(rows.is_signed, 1 << ((1 << code) - 1), 0)
    return rows.anchors[group].astype(np.int64) + before, code, zero


def _rounded(x: Floats, step: Floats, code: int, zero: Ids) -> Bytes:
    """Return what is stored of rows of one width."""
    bits = 1 << code
    # A product that is infinite or no number is clipped like any other.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = x * (np.float32(1) / step)[:, None]
    signed = zero[:, None] > 0
    most = np.where(signed, (1 << (bits - 1)) - 1, (1 << bits) - 1).astype(np.float32)
    whole = np.where(signed, np.abs(scaled), np.fmax(scaled, np.float32(0)))
    number = np.floor(np.fmin(whole, most) + np.float32(0.5)).astype(np.int64)
    return np.asarray(np.where(signed & (scaled < 0), -number, number) + zero[:, None], np.uint8)


def _stored(rows: PackedRows, ids: Ids) -> tuple[Bytes, Ids]:
    """Return the numbers of rows as they are stored, each in a byte, and the zero of each row."""
    offset, code, zero = _places(rows, ids)
    found = np.empty((len(ids), rows.columns), np.uint8)
    for each in np.unique(code):
        of_code = np.flatnonzero(code == each)
        size = int(row_bytes(each[None], rows.columns)[0])
        found[of_code] = _split(rows.payload[offset[of_code, None] + np.arange(size)], int(each))[:, : rows.columns]
    return found, zero


def _split(row: Bytes, code: int) -> Bytes:
    """Return the numbers of each byte, the lowest bits first: [rows, bytes] to [rows, numbers]."""
    bits = 1 << code
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (row[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(len(row), row.shape[1] * len(shifts))


def _joined(numbers: Bytes, code: int) -> Bytes:
    """Return numbers in as few bytes as hold them, zeros behind the last."""
    bits = 1 << code
    per_byte = 8 // bits
    padded = np.zeros((len(numbers), -(-numbers.shape[1] // per_byte) * per_byte), np.uint8)
    padded[:, : numbers.shape[1]] = numbers
    parts = padded.reshape(len(numbers), padded.shape[1] // per_byte, per_byte)
    joined: Bytes = (parts << np.arange(0, 8, bits, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)
    return joined
