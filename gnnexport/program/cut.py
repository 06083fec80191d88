"""Find the narrowest values that separate what makes them from what reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from torch import fx

_SOURCE, _SINK = 0, 1
_FINE = 16
_MOST = 1 << 29
"""Of all weights together: the flow is computed in 32 bits."""


def narrowest_cut(
    widths: Mapping[fx.Node, int | None], reads: Mapping[fx.Node, Collection[fx.Node]], made: Collection[fx.Node],
    wanted: Collection[fx.Node],
) -> list[fx.Node]:  # fmt: skip
    """Return values of least width in total from which all that is wanted can be computed without what is made.

    A vertex cut by maximum flow; of several as narrow one of the fewest values, and of those the nearest to the
    readers, so that as little as possible is computed again from it.

    Args:
        widths: channels of each value, in graph order; `None` for one that cannot be kept.
        reads: of each value the values it is computed from, as far as they are among `widths`.
        made: values that cannot be computed from others; they may be kept themselves.
        wanted: values that are read.
    """
    order = list(widths)
    # Each value is an edge from its entry to its exit, as wide as the value.
    entry = {node: 2 + 2 * place for place, node in enumerate(order)}
    size = 2 + 2 * len(order)
    # A value weighs a little more than its channels, so that fewer are preferred.
    weights = {node: width * _FINE + 1 for node, width in widths.items() if width is not None}
    coarse = sum(weights.values()) // _MOST + 1
    weights = {node: -(-weight // coarse) for node, weight in weights.items()}
    unlimited = sum(weights.values()) + 1
    edges: dict[tuple[int, int], int] = {}
    for node in order:
        edges[entry[node], entry[node] + 1] = weights.get(node, unlimited)
        for item in reads[node]:
            edges[entry[item] + 1, entry[node]] = unlimited
    edges |= {(_SOURCE, entry[node]): unlimited for node in made}
    edges |= {(entry[node] + 1, _SINK): unlimited for node in wanted}
    rows, columns = np.array(list(edges), np.int32).reshape(-1, 2).T
    capacity = csr_array((np.array(list(edges.values()), np.int32), (rows, columns)), shape=(size, size))
    residual = capacity - maximum_flow(capacity, _SOURCE, _SINK).flow
    sink_side = _reaching(residual, _SINK)
    return [node for node in order if entry[node] + 1 in sink_side and entry[node] not in sink_side]


def _reaching(residual: csr_array, goal: int) -> set[int]:
    """Return all vertices from which the goal can still be reached."""
    backward = csr_array(residual.T)
    backward.eliminate_zeros()
    found, waiting = {goal}, [goal]
    while waiting:
        vertex = waiting.pop()
        before = backward.indices[backward.indptr[vertex] : backward.indptr[vertex + 1]].tolist()
        fresh = [item for item in before if item not in found]
        found.update(fresh)
        waiting += fresh
    return found
