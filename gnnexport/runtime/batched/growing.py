"""Arrays that grow at their end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

_SHARE, _LEAST = 4, 16
"""Room to spare, as a part of what is there, and at least."""


class Growing:
    """Rows to which others are added, with room to spare, so that adding one does not copy all."""

    def __init__(self, rows: NDArray[Any]) -> None:
        """Begin with these rows; they are not copied before some are added."""
        self.array = rows
        self._room = rows

    @property
    def nbytes(self) -> int:
        """Bytes that rows and room to spare take."""
        return self._room.nbytes

    def extend(self, rows: NDArray[Any]) -> None:
        """Add rows of the same shape; views taken before keep what they saw."""
        count, total = len(self.array), len(self.array) + len(rows)
        if total > len(self._room):
            self._room = np.empty((total + total // _SHARE + _LEAST, *self.array.shape[1:]), self.array.dtype)
            self._room[:count] = self.array
        self._room[count:total] = rows
        self.array = self._room[:total]


def ranges(start: Ids, length: Ids) -> Ids:
    """Return `start[i], …, start[i] + length[i] - 1` for each i, one after the other."""
    end = np.cumsum(length)
    total = int(end[-1]) if len(end) else 0
    found: Ids = np.arange(total, dtype=np.int64) + np.repeat(start - (end - length), length)
    return found
