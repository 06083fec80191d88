"""Files of packed rows: written whole, mapped into memory.

A file begins with `GNXROWS1` and seven int64: rows, columns, 1 where numbers are signed, and the bytes of codes,
anchors, zeros and payload, each 0 where there is none. Then come steps (float32), codes, anchors (uint64), zeros and
payload, each at a multiple of 64 bytes. All is little-endian; `native.packed.PackedRows` says what the parts mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import UsageError
from gnnexport.native.packed import GROUP, PackedRows, why_unsound

_MAGIC = b"GNXROWS1"
_HEADER = np.dtype("<i8")
_NUMBERS = 7
_ALIGNED = 64
_MAPPED_BYTES = 1 << 20
"""Larger files are mapped: what no request reads takes no memory."""


def write_packed(path: Path, rows: PackedRows) -> None:
    """Write rows to a file."""
    parts = _parts(rows)
    sizes = [0 if part is None else part.nbytes for part in parts[1:]]
    header = np.array([len(rows), rows.columns, rows.is_signed, *sizes], _HEADER)
    with path.open("wb") as stream:
        stream.write(_MAGIC + header.tobytes())
        for part in parts:
            stream.write(b"\0" * (-stream.tell() % _ALIGNED))
            if part is not None:
                stream.write(np.ascontiguousarray(part).data)


def map_packed(path: Path, mend: str) -> PackedRows:
    """Map a file of packed rows into memory; its rows cannot be written.

    Args:
        path: of the file.
        mend: for messages.

    Raises:
        UsageError: no such file, not such a file, or damaged.
    """
    try:
        small = path.stat().st_size < _MAPPED_BYTES
        content = np.fromfile(path, np.uint8) if small else np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise UsageError.at(str(path), f"cannot be read ({error})", mend) from error
    what, rows = "is no file of packed rows", None
    begin = len(_MAGIC) + _NUMBERS * _HEADER.itemsize
    if len(content) >= begin and content[: len(_MAGIC)].tobytes() == _MAGIC:
        numbers = content[len(_MAGIC) : begin].view(_HEADER).tolist()
        rows = _read(content, begin, *numbers)
        what = "has another size than it says" if rows is None else why_unsound(rows) or ""
    if rows is None or what:
        raise UsageError.at(str(path), what, mend)
    return rows


def _parts(rows: PackedRows) -> tuple[NDArray[Any] | None, ...]:
    return rows.step, rows.codes, rows.anchors, rows.zero, rows.payload


def _read(
    content: NDArray[np.uint8], begin: int, num_rows: int, columns: int, signed: int, *sizes: int
) -> PackedRows | None:
    """Return what a header promises; `None` where that is not what is there."""
    if min(num_rows, columns, *sizes) < 0 or num_rows > len(content) or columns > 1 << 40:
        return None
    kinds: tuple[Any, ...] = (np.float32, np.uint8, np.uint64, np.uint8, np.uint8)
    found: list[NDArray[Any]] = []
    for size, kind in zip((4 * num_rows, *sizes), kinds, strict=True):
        begin += -begin % _ALIGNED
        if size > len(content) - begin or size % np.dtype(kind).itemsize:
            return None
        found.append(content[begin : begin + size].view(kind))
        begin += size
    step, codes, anchors, zero, payload = found
    given = len(codes) > 0
    fits = begin == len(content) and len(zero) in (0, 0 if given else num_rows)
    if not fits or (given and (len(codes), len(anchors)) != (-(-num_rows // 4), -(-num_rows // GROUP))):
        return None
    return PackedRows(
        payload, step, columns, bool(signed), codes if given else None, anchors if given else None,
        zero if len(zero) else None,
    )  # fmt: skip
