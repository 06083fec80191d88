"""The power-law graph of the benchmarks: many nodes of few edges, few of very many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXPONENT = 0.6


@dataclass(frozen=True)
class PowerLaw:
    """A graph and how it is drawn.

    Args:
        num_nodes: nodes, of which node i in some hidden order is drawn with weight i to the power of −0.6.
        num_pairs: pairs of nodes drawn; loops and duplicates are dropped, both directions kept.
        seed: of the draw.
    """

    num_nodes: int = 170_000
    num_pairs: int = 1_170_000
    seed: int = 0

    def edge_index(self) -> NDArray[np.int64]:
        """Return source and destination [2, num_edges], sorted by destination."""
        random = np.random.default_rng(self.seed)
        weight = np.arange(1, self.num_nodes + 1) ** -EXPONENT
        weight /= weight.sum()
        hidden = random.permutation(self.num_nodes)
        source = hidden[random.choice(self.num_nodes, self.num_pairs, p=weight)]
        destination = hidden[random.choice(self.num_nodes, self.num_pairs, p=weight)]
        apart = source != destination
        both = np.concatenate([source[apart], destination[apart]]), np.concatenate([destination[apart], source[apart]])
        key = np.unique(both[1] * self.num_nodes + both[0])
        return np.stack([key % self.num_nodes, key // self.num_nodes])
