"""Take some graphs out of a set that lies in arrays, as `program.data` does with tensors. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import DataError

_MEND = "Give the .npz the model was compressed with"


@dataclass(frozen=True)
class Request:
    """What a model is asked, and about which rows of the labels.

    Args:
        inputs: arrays by the names of the model's inputs.
        rows: int64, the labels that belong to the rows of the output, in their order.
        count: labels there have to be in all.
    """

    inputs: Mapping[str, NDArray[Any]]
    rows: NDArray[np.int64]
    count: int


def set_pointers(path: Path, arrays: Mapping[str, NDArray[Any]], num_nodes: int) -> NDArray[np.int64]:
    """Return where the nodes of each graph start, int64 [num_graphs + 1]; without any pointers there is one graph.

    Raises:
        DataError: pointers that do not cover the nodes.
    """
    for name in ("node_ptr", "ptr"):
        if name in arrays:
            pointers = arrays[name]
            ascending = pointers.ndim == 1 and len(pointers) > 1 and bool(np.all(np.diff(pointers) >= 0))
            if not ascending or pointers[0] != 0 or pointers[-1] != num_nodes:
                raise DataError.at(str(path), f"{name} does not ascend from 0 to the {num_nodes} nodes", _MEND)
            return np.asarray(pointers, np.int64)
    if "batch" not in arrays:
        return np.array([0, num_nodes], np.int64)
    batch = arrays["batch"]
    if batch.shape != (num_nodes,) or batch.dtype.kind not in "iu" or bool(np.any(np.diff(batch.astype(np.int64)) < 0)):
        raise DataError.at(str(path), f"batch is not ascending numbers of graphs for {num_nodes} nodes", _MEND)
    count = max(int(batch[-1]) + 1, int(arrays.get("num_graphs", np.zeros(())).max()))
    return np.concatenate([[0], np.cumsum(np.bincount(batch, minlength=count))]).astype(np.int64)


def select_graphs(
    path: Path,
    values: Mapping[str, NDArray[Any]],
    pointers: NDArray[np.int64],
    graphs: NDArray[np.int64] | None,
    level: str,
) -> Request:
    """Lay some graphs of a set side by side.

    Args:
        path: names the set in messages.
        values: `x` and what belongs to edges and pairs, of the whole set.
        pointers: as `set_pointers` gives them.
        graphs: numbers of graphs; `None` for the whole set as it is, which is the only choice where rows are pairs.
        level: what a label is about: a node, a graph or a pair.

    Raises:
        DataError: numbers of graphs that the set has not.
    """
    num_graphs, counts = len(pointers) - 1, np.diff(pointers)
    owner = np.repeat(np.arange(num_graphs), counts)
    whole = {"batch": owner, "num_graphs": np.array(num_graphs)}
    if graphs is None:
        pairs = values.get("edge_label_index", np.zeros((2, 0))).shape[1]
        count = {"graph": num_graphs, "pair": pairs}.get(level, len(owner))
        return Request({**values, **whole}, np.arange(count), count)
    if graphs.size and int(graphs.max()) >= num_graphs:
        what = f"has {num_graphs} graphs, but the test is of graph {int(graphs.max())}"
        raise DataError.at(str(path), what, _MEND)
    nodes = _rows_of(graphs, pointers)
    new_ids = np.full(len(owner), -1, np.int64)
    new_ids[nodes] = np.arange(len(nodes))
    edges = values["edge_index"]
    by_graph = owner[edges[0]]
    order = np.argsort(by_graph, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(by_graph, minlength=num_graphs))])
    kept = order[_rows_of(graphs, starts)]
    inputs = {name: value[kept] for name, value in values.items() if name in ("edge_weight", "edge_attr")}
    inputs |= {"x": values["x"][nodes], "edge_index": new_ids[edges[:, kept]]}
    inputs |= {"batch": np.repeat(np.arange(len(graphs)), counts[graphs]), "num_graphs": np.array(len(graphs))}
    if level == "graph":
        return Request(inputs, graphs, num_graphs)
    return Request(inputs, nodes, len(owner))


def _rows_of(graphs: NDArray[np.int64], pointers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of some graphs, one graph after the other."""
    parts = [np.arange(pointers[graph], pointers[graph + 1]) for graph in graphs]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
