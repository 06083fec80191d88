"""Sets of graphs that lie side by side in arrays: what a row is about, and how to take some graphs out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import DataError

Level = Literal["node", "graph", "pair"]
"""What one row of a model's output is about: a node, a graph of a set, or a pair of nodes (link prediction)."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """Some graphs of a set, one after the other.

    Args:
        nodes: int64, the rows of the set's nodes.
        edges: int64, the columns of its edges.
        edge_index: int64 [2, edges], between the nodes selected.
        batch: int64, the place among those selected of the graph of each node.
    """

    nodes: Numbers
    edges: Numbers
    edge_index: Numbers
    batch: Numbers


def select(where: str, owner: Numbers, edge_index: Numbers, num_graphs: int, graphs: Numbers) -> Selection:
    """Find the nodes and edges of some graphs, in the order given.

    Args:
        where: names the set in messages.
        owner: int64 [num_nodes], ascending, the graph of each node.
        edge_index: int64 [2, num_edges] of the set, in any order.
        num_graphs: of the set; graphs may be empty.
        graphs: int64, their numbers.

    Raises:
        DataError: a number of a graph that the set has not, or an edge that leads from one graph to another.
    """
    outside = graphs[(graphs < 0) | (graphs >= num_graphs)]
    if outside.size:
        mend = "Choose others, or give the set that they were chosen from"
        raise DataError.at(where, f"has {num_graphs} graphs, but graph {int(outside[0])} is asked for", mend)
    source, destination = owner[edge_index]
    crossing = np.flatnonzero(source != destination)
    if crossing.size:
        first = int(crossing[0])
        what = f"edge {first} leads from graph {int(source[first])} to graph {int(destination[first])}"
        raise DataError.at(where, what, "Leave such edges out, or give it as one graph")
    counts = np.bincount(owner, minlength=num_graphs)
    nodes = _rows_of(graphs, counts)
    new_ids = np.zeros(len(owner), np.int64)
    new_ids[nodes] = np.arange(len(nodes))
    order = np.argsort(source, kind="stable")
    edges = order[_rows_of(graphs, np.bincount(source, minlength=num_graphs))]
    between = np.ascontiguousarray(new_ids[edge_index[:, edges]])
    return Selection(nodes, edges, between, np.repeat(np.arange(len(graphs)), counts[graphs]))


def _rows_of(graphs: Numbers, counts: Numbers) -> Numbers:
    """Return the rows of some graphs, one graph after the other, where rows are grouped by graph."""
    starts = np.cumsum(counts) - counts
    taken = counts[graphs]
    places = np.cumsum(taken) - taken
    return np.repeat(starts[graphs] - places, taken) + np.arange(int(taken.sum()))
