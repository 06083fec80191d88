"""What features and kept rows are said to take is what they take in memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnnexport.bundle.packed_rows import map_packed, write_packed
from gnnexport.bundle.stages import StoreBits
from gnnexport.native.packed import pack
from gnnexport.native.row_widths import choose_widths
from gnnexport.runtime.batched.kept_rows import ByteRows, FloatRows
from gnnexport.runtime.batched.packed_tables import PackedFeatures
from gnnexport.runtime.batched.store import RowStore

NODES, WIDTH = 60_000, 96
CLOSE = 0.1


def resident_of(path: Path) -> int:
    """Return the bytes of a mapped file that are in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            inside = line.endswith(str(path))
        elif inside and head == "Rss:":
            total += 1024 * int(line.split()[1])
    return total


def held_by(thing: Any) -> int:
    """Return the bytes of all arrays that an object holds."""
    inner = (value for value in vars(thing).values() if isinstance(value, FloatRows | ByteRows))
    arrays = (value.nbytes for value in vars(thing).values() if isinstance(value, np.ndarray))
    return sum(arrays) + sum(map(held_by, inner))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of memory on Linux alone")
def test_features_take_what_is_said(tmp_path: Path) -> None:
    """Once every row was read, the mapping is as large as the claim: steps, widths and anchors included."""
    rng = np.random.default_rng(0)
    x = rng.random((NODES, WIDTH), np.float32)
    x[::2] = x[::2] > 0.9
    write_packed(tmp_path / "features.rows", pack(x, *choose_widths(x, 8, is_signed=False), is_signed=False))
    del x
    table = PackedFeatures(map_packed(tmp_path / "features.rows", ""), 8)
    assert table.nbytes < 0.16 * 4 * NODES * WIDTH
    for begin in range(0, NODES, 1_000):
        table.gather(np.arange(begin, begin + 1_000))
    assert resident_of(tmp_path / "features.rows") == pytest.approx(table.nbytes, rel=CLOSE)


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("budget", [1 << 20, 24 << 20, 1 << 30])
def test_kept_rows_take_what_is_said(budget: int, bits: StoreBits) -> None:
    """The arrays of a store, empty or full, take its claim, which is within the budget."""
    store = RowStore(NODES, 224, budget, bits)
    assert held_by(store) == pytest.approx(store.size_bytes, rel=CLOSE)
    assert store.size_bytes <= budget
    rows = np.random.default_rng(0).random((1_000, 224), np.float32)
    store.put(np.arange(1_000), rows)
    assert held_by(store) <= store.size_bytes
    assert held_by(store) == pytest.approx(store.size_bytes, rel=CLOSE)
