"""Files of packed rows: read back as they were written, mapped, and refused where they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gnnexport.bundle.packed_rows import map_packed, write_packed
from gnnexport.errors import UsageError
from gnnexport.native.packed import PackedRows, pack, pack_bytes, unpack
from gnnexport.native.row_widths import choose_widths

Array = np.ndarray
MEND = "Make the bundle again"


def features(rows: int, columns: int = 37) -> PackedRows:
    """Pack rows of many widths."""
    rng = np.random.default_rng(rows)
    x = rng.random((rows, columns), np.float32)
    x[::3] = x[::3] > 0.5
    x[1::3] = np.floor(x[1::3] * 3)
    return pack(x, *choose_widths(x, 8, is_signed=False), is_signed=False)


def same(left: PackedRows, right: PackedRows) -> None:
    """Compare rows, part by part."""
    for part in ("payload", "step", "codes", "anchors", "zero"):
        np.testing.assert_array_equal(getattr(left, part), getattr(right, part))
    assert (left.columns, left.is_signed, left.nbytes) == (right.columns, right.is_signed, right.nbytes)


@pytest.mark.parametrize("rows", [0, 1, 64, 65, 30_000])
def test_rows_are_read_back(rows: int, tmp_path: Path) -> None:
    """Of several widths, or of 8 bits with signs of their own; the file takes what the rows take, and a header."""
    signed = pack_bytes(np.random.default_rng(0).standard_normal((rows, 9)).astype(np.float32))
    for name, given in (("features", features(rows)), ("stage", signed)):
        path = tmp_path / name
        write_packed(path, given)
        found = map_packed(path, MEND)
        np.testing.assert_array_equal(unpack(found), unpack(given))
        if rows:
            same(found, given)
        assert given.nbytes <= path.stat().st_size < given.nbytes + 400


def test_large_files_are_mapped(tmp_path: Path) -> None:
    """What is not read stays in the file, and nothing is written to it."""
    path = tmp_path / "features.rows"
    write_packed(path, features(120_000))
    found = map_packed(path, MEND)
    assert isinstance(found.payload.base, np.memmap)
    assert not found.payload.flags.writeable
    assert not found.step.flags.writeable


@pytest.mark.parametrize("count", [0, 7, 63, 64, 1_000, -1])
def test_files_that_end_early(count: int, tmp_path: Path) -> None:
    """A file that is cut short is refused, wherever."""
    path = tmp_path / "features.rows"
    write_packed(path, features(200))
    path.write_bytes(path.read_bytes()[:count])
    with pytest.raises(UsageError, match=r"features.rows: .*Make the bundle again"):
        map_packed(path, MEND)


def test_files_that_are_none(tmp_path: Path) -> None:
    """There has to be a file, and of this kind."""
    with pytest.raises(UsageError, match=r"x.rows: cannot be read .*Make the bundle again"):
        map_packed(tmp_path / "x.rows", MEND)
    np.save(tmp_path / "x.npy", np.ones((50, 3)))
    with pytest.raises(UsageError, match=r"x.npy: is no file of packed rows"):
        map_packed(tmp_path / "x.npy", MEND)


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("value", [-1, 1, 1 << 20, 2**62, -(2**63)])
def test_headers_that_lie(place: int, value: int, tmp_path: Path) -> None:
    """No number of a header is believed, whatever it says; the sign alone may be another."""
    path = tmp_path / "features.rows"
    write_packed(path, features(200))
    content = bytearray(path.read_bytes())
    content[8 + 8 * place : 16 + 8 * place] = np.int64(value).tobytes()
    path.write_bytes(content)
    if place == 2:
        assert map_packed(path, MEND).is_signed
        return
    with pytest.raises(UsageError, match=r"features.rows: .*Make the bundle again"):
        map_packed(path, MEND)


def test_parts_that_lie(tmp_path: Path) -> None:
    """Steps, widths and anchors are held against each other before a row is read."""
    given = features(200)
    assert given.codes is not None
    changes: dict[str, Array] = {"step": given.step * np.nan, "codes": given.codes ^ np.uint8(3)}
    for name, value in changes.items():
        path = tmp_path / name
        write_packed(path, PackedRows(**{**vars(given), name: value}))
        with pytest.raises(UsageError, match=r"a step is not positive|anchors and widths do not fit"):
            map_packed(path, MEND)
