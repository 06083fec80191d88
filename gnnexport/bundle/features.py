"""Node features made from a few numbers, so that a large test case takes no room in a bundle.

numpy promises that the raw stream of a bit generator never changes, not that of its distributions, so the
values are made from raw bits by exact arithmetic: the same on every machine and every numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from gnnexport.bundle.record import Record

FeatureKind = Literal["normal", "zeros", "negative", "sparse"]
_CHUNK = 1 << 20
_MEAN = 4 * 65535 / 2
_DEVIATION = float(np.sqrt(4 * (65536**2 - 1) / 12))


class Features(Record):
    """A recipe for float32 features.

    Args:
        kind: `normal` noise (sum of four uniforms), `zeros`, `negative` (minus the magnitude of noise: catches a
            maximum that starts from zero), or `sparse` (one entry a row: like one-hot features).
        shape: nodes, channels.
        seed: of the bit generator.
        scale: standard deviation of the noise, or the value of the sparse entry.
    """

    kind: FeatureKind
    shape: tuple[NonNegativeInt, NonNegativeInt]
    seed: NonNegativeInt = 0
    scale: float = 1.0

    def make(self) -> NDArray[np.float32]:
        """Make the array: float32 `shape`."""
        rows, channels = self.shape
        if self.kind == "zeros" or rows * channels == 0:
            return np.zeros(self.shape, np.float32)
        bits = np.random.PCG64(self.seed)
        if self.kind == "sparse":
            out = np.zeros(self.shape, np.float32)
            out[np.arange(rows), (bits.random_raw(rows) >> np.uint64(32)) % np.uint64(channels)] = self.scale
            return out
        flat = np.empty(rows * channels, np.float32)
        for start in range(0, len(flat), _CHUNK):
            part = flat[start : start + _CHUNK]
            part[:] = _noise(bits, len(part)) * self.scale
        if self.kind == "negative":
            np.negative(np.abs(flat), out=flat)
        return flat.reshape(self.shape)


def noise(shape: Sequence[int | str]) -> NDArray[np.float32]:
    """Make normal noise `[nodes, channels]` for timing; a dynamic size counts as 1."""
    rows, channels = (size if isinstance(size, int) else 1 for size in shape)
    return Features(kind="normal", shape=(rows, channels)).make()


def _noise(bits: np.random.PCG64, count: int) -> NDArray[np.float64]:
    """Return the sum of the four 16-bit parts of each raw word, centred, with unit deviation."""
    sums = bits.random_raw(count).view(np.uint16).reshape(count, 4).sum(axis=1, dtype=np.int64)
    return np.asarray((sums - _MEAN) / _DEVIATION, np.float64)
