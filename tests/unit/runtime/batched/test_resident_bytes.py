"""What features and kept rows are said to take is what they take in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnnexport.bundle.packed_rows import map_packed, write_packed
from gnnexport.bundle.stages import StoreBits
from gnnexport.native.packed import empty_rows
from gnnexport.runtime.batched.kept_rows import ByteRows, FloatRows
from gnnexport.runtime.batched.packed_tables import PackedFeatures
from gnnexport.runtime.batched.store import RowStore

NODES, WIDTH = 60_000, 1_000
CLOSE = 0.1

READ_ALL = """
import sys
from pathlib import Path

import numpy as np

from gnnexport.bundle.packed_rows import map_packed
from gnnexport.runtime.batched.packed_tables import PackedFeatures

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

def read(path):
    table = PackedFeatures(map_packed(path, ""), 8)
    for begin in range(0, len(table), 200):
        table.gather(np.arange(begin, min(begin + 200, len(table))), threads=1)
    return table

read(Path(sys.argv[1]))
before = resident()
table = read(Path(sys.argv[2]))
print(table.nbytes, resident() - before)
"""


def written(path: Path, nodes: int) -> Path:
    """Write packed rows of every width."""
    rng = np.random.default_rng(0)
    rows = empty_rows(np.ones(nodes, np.float32), rng.choice([1, 2, 4, 8], nodes), WIDTH, is_signed=False)
    rows.payload[:] = np.frombuffer(rng.bytes(len(rows.payload)), np.uint8)
    write_packed(path, rows)
    return path


def held_by(thing: Any) -> int:
    """Return the bytes of all arrays that an object holds."""
    inner = (value for value in vars(thing).values() if isinstance(value, FloatRows | ByteRows))
    arrays = (value.nbytes for value in vars(thing).values() if isinstance(value, np.ndarray))
    return sum(arrays) + sum(map(held_by, inner))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of memory on Linux alone")
def test_features_take_what_is_said(tmp_path: Path) -> None:
    """A process that read every row has grown by the claim: steps, widths and anchors included, and nothing beside."""
    few, many = written(tmp_path / "few.rows", 100), written(tmp_path / "many.rows", NODES)
    done = subprocess.run([sys.executable, "-c", READ_ALL, few, many], capture_output=True, text=True, check=True)
    claimed, grown = map(int, done.stdout.split())
    assert claimed == PackedFeatures(map_packed(many, ""), 8).nbytes
    assert 20_000_000 < claimed < 0.13 * 4 * NODES * WIDTH
    assert grown == pytest.approx(claimed, rel=CLOSE)


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("budget", [1 << 20, 24 << 20, 1 << 30])
def test_kept_rows_take_what_is_said(budget: int, bits: StoreBits) -> None:
    """The arrays of a store, empty or full, take its claim, which is within the budget."""
    store = RowStore(NODES, 224, budget, bits)
    assert store.capacity > 500
    assert held_by(store) == pytest.approx(store.size_bytes, rel=CLOSE)
    assert store.size_bytes <= budget
    rows = np.random.default_rng(0).random((5_000, 224), np.float32)
    for begin in range(0, NODES, len(rows)):
        store.put(np.arange(begin, begin + len(rows)), rows)
    assert int(store.has(np.arange(NODES)).sum()) == min(store.capacity, NODES)
    assert held_by(store) <= store.size_bytes
    assert held_by(store) == pytest.approx(store.size_bytes, rel=CLOSE)
