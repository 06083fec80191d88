"""The rows of a store as they lie in memory: float32, or 8 bits a number with a step for each row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.stages import StoreBits
from gnnexport.native.neighbours import gather_rows
from gnnexport.native.packed import PackedRows, pack_bytes, unpack
from gnnexport.runtime.batched.growing import Ids

Rows = NDArray[np.float32]


def row_bytes(width: int, bits: StoreBits) -> int:
    """Return what a row takes: its numbers, with 8 bits also its step and its zero."""
    return 4 * width if bits == 32 else width + 5


class FloatRows:
    """Room for rows of float32."""

    def __init__(self, capacity: int, width: int) -> None:
        self.array = np.empty((capacity, width), np.float32)

    def __len__(self) -> int:
        return len(self.array)

    def read(self, places: Ids, threads: int = 0) -> Rows:
        """Return a copy of some rows."""
        return gather_rows(self.array, places, threads=threads)

    def taken(self, places: Ids) -> Rows | PackedRows:
        """Return some rows as `write` takes them, unchanged."""
        return self.array[places]

    def write(self, places: Ids, rows: Rows | PackedRows, chosen: Ids) -> None:
        """Write rows `chosen` of those given."""
        self.array[places] = unpack(rows, chosen) if isinstance(rows, PackedRows) else rows[chosen]


class ByteRows:
    """Room for rows of 8 bits a number, each with a step and a sign of its own."""

    def __init__(self, capacity: int, width: int) -> None:
        self._numbers = np.empty((capacity, width), np.uint8)
        self._step = np.ones(capacity, np.float32)
        self._zero = np.zeros(capacity, np.uint8)

    def __len__(self) -> int:
        return len(self._step)

    def read(self, places: Ids, threads: int = 0) -> Rows:
        """Return some rows as float32."""
        return unpack(self._packed(), places, threads=threads)

    def taken(self, places: Ids) -> Rows | PackedRows:
        """Return some rows as `write` takes them, unchanged."""
        return self._packed().take(places)

    def write(self, places: Ids, rows: Rows | PackedRows, chosen: Ids) -> None:
        """Write rows `chosen` of those given; what is float32 is rounded."""
        given = rows.take(chosen) if isinstance(rows, PackedRows) else pack_bytes(rows[chosen])
        assert given.zero is not None
        self._numbers[places] = given.payload.reshape(len(given), given.columns)
        self._step[places], self._zero[places] = given.step, given.zero

    def _packed(self) -> PackedRows:
        return PackedRows(self._numbers.reshape(-1), self._step, self._numbers.shape[1], zero=self._zero)
