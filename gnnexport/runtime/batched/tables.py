"""Tables of node features, mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gnnexport.native.neighbours import gather_rows
from gnnexport.runtime.batched.growing import Growing, Ids

Rows = NDArray[np.float32]

_MAPPED_BYTES = 1 << 20
"""Larger files are mapped: what no request reads takes no memory."""


class FeatureRows:
    """Some or all of the features of every node, one row each, as float32."""

    def __init__(self, rows: Rows, columns: Sequence[int] | None = None) -> None:
        """Take over rows, float32 [nodes, width], which of the features they hold: all where `columns` is `None`."""
        self._rows = Growing(rows)
        self._columns = None if columns is None else np.array(columns, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rows(self) -> Rows:
        """Return the table, float32 [nodes, width]."""
        return self._rows.array

    @property
    def whole(self) -> Rows | None:
        """Return the table where a stage can read it as it is."""
        return self.rows

    @property
    def nbytes(self) -> int:
        """Bytes of the table, in memory or in the file that is mapped."""
        return self._rows.nbytes

    def gather(self, nodes: Ids, threads: int = 0) -> Rows:
        """Return the rows of some nodes, float32 [count, width]."""
        return gather_rows(self.rows, nodes, threads=threads)

    def replace(self, nodes: Ids, features: Rows) -> Ids:
        """Put other features in the place of some rows; return the nodes whose rows are others now."""
        new = self._own(features)
        others: Ids = nodes[(self.rows[nodes] != new).any(axis=1)]
        self.rows[nodes] = new
        return others

    def extend(self, features: Rows) -> None:
        """Add the rows of new nodes."""
        self._rows.extend(self._own(features))

    def _own(self, features: Rows) -> Rows:
        return features if self._columns is None else features[:, self._columns]


def map_rows(path: Path) -> Rows:
    """Map a `.npy` file into memory; what is written to its rows stays in memory and never reaches the file."""
    if path.stat().st_size < _MAPPED_BYTES:
        return np.ascontiguousarray(np.load(path, allow_pickle=False))
    return np.ascontiguousarray(np.load(path, mmap_mode="c", allow_pickle=False))
