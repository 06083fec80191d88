"""Graphs for Hypothesis: isolated nodes, no edges, one node, duplicates, self-loops, hubs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray


@dataclass(frozen=True)
class Csr:
    """A graph by destination: `rowptr` [num_nodes + 1] and `col` [num_edges]."""

    rowptr: NDArray[np.int64]
    col: NDArray[np.int64]

    @property
    def num_nodes(self) -> int:
        """Rows."""
        return len(self.rowptr) - 1

    @property
    def num_edges(self) -> int:
        """Slots."""
        return len(self.col)

    @property
    def row(self) -> NDArray[np.int64]:
        """Destination of each slot."""
        return np.repeat(np.arange(self.num_nodes), np.diff(self.rowptr))


def from_degrees(degrees: list[int], seed: int = 0) -> Csr:
    """Return a graph with these in-degrees and random sources, which repeat and include the node itself."""
    rowptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    col = np.random.default_rng(seed).integers(0, len(degrees), int(rowptr[-1]))
    return Csr(rowptr, col)


_FEW = st.integers(0, 6)
_HUB = st.integers(60, 300)


@st.composite
def graphs(draw: st.DrawFn) -> Csr:
    """Draw a graph of up to 300 nodes in which some degrees are frequent and some nodes may be hubs."""
    rare = draw(st.lists(_FEW | _HUB, min_size=1, max_size=12))
    frequent = draw(st.sampled_from([0, 70, 140]))
    degree = draw(st.sampled_from([0, 1, 2, 5]))
    degrees = [*rare, *([degree] * frequent)]
    seed = draw(st.integers(0, 2**16))
    np.random.default_rng(seed).shuffle(degrees)
    return from_degrees(degrees, seed)
