"""Reviews of `yelpchi_reviews` as they come in: the graph of the first ones, and what each later batch adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.program.data import Split

REVIEW, USER, PRODUCT = range(3)
SCORE, DEGREE = 3, 4
OF_USER, OF_PRODUCT = 7, 8
"""Columns of the features: log1p of how many neighbours the node, its user and its product have."""

VALIDATION = 0.2
LARGEST = 10.0
"""Standardised features are cut off there."""

Arrays = Mapping[str, NDArray[Any]]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Growth:
    """What some reviews bring.

    Args:
        nodes: float32 [new nodes, features], numbered on from those there are: reviews, and who and what they name
            for the first time.
        edges: int64 [2, new edges], each both ways.
        reviews: int64 [reviews], the ids that these have.
    """

    nodes: NDArray[np.float32]
    edges: Ids
    reviews: Ids


class Stream:
    """Reviews in order of arrival, with users and products numbered when a review first names them.

    The data has no dates: its authors took them out, and reviews are in random order. That order is taken for the
    order of arrival. Features that count neighbours are those of the moment in which a node came, so that none tells
    of the future; a later review does not change them. The scores that the data brings stay as they are.

    Args:
        arrays: `node_type` int8 [nodes], `edge_index` [2, edges] both ways between reviews and others, `x` and `y`.
        count: how many reviews come at all; `None` for those there are.
        first: share of them that has come when the model is trained.
        seed: of the split of the first part.
    """

    def __init__(self, arrays: Arrays, count: int | None, first: float, seed: int = 0) -> None:
        self._seed = seed
        users, products = (_partner(arrays, kind)[:count] for kind in (USER, PRODUCT))
        self.num_reviews = len(users)
        self.first = max(2, int(first * self.num_reviews))
        named, came, place = np.unique(np.stack([users, products], 1), return_index=True, return_inverse=True)
        self._when = np.concatenate([np.arange(self.num_reviews), came // 2])
        order = np.argsort(self._when, kind="stable")
        self._when = self._when[order]
        self._id = np.argsort(order)
        partners = self.num_reviews + place.reshape(-1, 2)
        self._partners: Ids = self._id[partners]
        old = np.concatenate([np.arange(self.num_reviews), named])[order]
        self.y = arrays["y"][old].astype(np.int64)
        kind = arrays["node_type"][old]
        x = _as_it_was(arrays["x"][old].astype(np.float32), kind, self._id[: self.num_reviews], users, products)
        known = x[: self.nodes_before(self.first)]
        spread = known.std(0) + 1e-6
        self.x = np.clip((x - known.mean(0)) / spread, -LARGEST, LARGEST).astype(np.float32)

    @property
    def reviews(self) -> Ids:
        """Return the id of each review, in order of arrival."""
        return self._id[: self.num_reviews]

    def nodes_before(self, review: int) -> int:
        """Return how many nodes there are before a review comes."""
        return int(np.searchsorted(self._when, review))

    def edges(self, begin: int, end: int) -> Ids:
        """Return the edges of some reviews, both ways: int64 [2, 4 * reviews]."""
        review, partner = np.repeat(self.reviews[begin:end], 2), self._partners[begin:end].reshape(-1)
        return np.stack([np.concatenate([review, partner]), np.concatenate([partner, review])])

    def growth(self, begin: int, end: int) -> Growth:
        """Return what the reviews from `begin` to before `end` bring."""
        nodes = self.x[self.nodes_before(begin) : self.nodes_before(end)]
        return Growth(nodes, self.edges(begin, end), self.reviews[begin:end])

    def write_first(self, path: Path) -> None:
        """Write features and edges as they are before the stream starts."""
        np.savez(path, x=self.x[: self.nodes_before(self.first)], edge_index=self.edges(0, self.first))

    def first_labels(self) -> tuple[Ids, dict[Split, NDArray[np.bool_]]]:
        """Return the labels of that graph, int64 [nodes], and which to train on and to select by; there is no test."""
        count = self.nodes_before(self.first)
        order = np.random.default_rng(self._seed).permutation(self.reviews[: self.first])
        cut = int(VALIDATION * self.first)
        train, val = (np.isin(np.arange(count), chosen) for chosen in (order[cut:], order[:cut]))
        return self.y[:count], {"train": train, "val": val}


def _partner(arrays: Arrays, kind: int) -> Ids:
    """Return the one user or product of each review, by the numbers of the data."""
    source, destination = arrays["edge_index"].astype(np.int64)
    kinds = arrays["node_type"]
    chosen = (kinds[source] == REVIEW) & (kinds[destination] == kind)
    order = np.argsort(source[chosen], kind="stable")
    assert np.array_equal(source[chosen][order], np.flatnonzero(kinds == REVIEW)), "a review names one of each kind"
    partners: Ids = destination[chosen][order]
    return partners


def _as_it_was(
    x: NDArray[np.float32], kind: NDArray[Any], reviews: Ids, users: Ids, products: Ids
) -> NDArray[np.float32]:  # fmt: skip
    """Put counts of the moment of arrival in the place of those of the whole data."""
    x[kind != REVIEW, DEGREE] = np.log1p(1)
    for column, partners in ((OF_USER, users), (OF_PRODUCT, products)):
        x[reviews, column] = np.log1p(_times_so_far(partners))
    return x


def _times_so_far(values: Ids) -> Ids:
    """Count how often each value came up to its place, this one included."""
    order = np.argsort(values, kind="stable")
    _, begin, times = np.unique(values[order], return_index=True, return_counts=True)
    so_far = np.empty(len(values), np.int64)
    so_far[order] = np.arange(len(values)) - np.repeat(begin, times) + 1
    return so_far
