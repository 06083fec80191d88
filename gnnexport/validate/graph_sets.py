"""Read which graphs a file of a set holds, and take those of the test out. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.graph_sets import select
from gnnexport.errors import DataError
from gnnexport.measure.environment import memory_bytes

_MEND = "Give the .npz the model was compressed with"
_BYTES_EACH = 32
"""Room that counting takes for each node or graph, at most."""


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
            whole = pointers.ndim == 1 and len(pointers) > 1 and pointers.dtype.kind in "iu"
            if not whole or bool(np.any(pointers[1:] < pointers[:-1])) or pointers[0] != 0 or pointers[-1] != num_nodes:
                raise DataError.at(str(path), f"{name} does not ascend from 0 to the {num_nodes} nodes", _MEND)
            return np.asarray(pointers, np.int64)
    if "batch" not in arrays:
        return np.array([0, num_nodes], np.int64)
    batch = arrays["batch"]
    whole = batch.shape == (num_nodes,) and num_nodes > 0 and batch.dtype.kind in "iu"
    if not whole or batch[0] < 0 or bool(np.any(batch[1:] < batch[:-1])):
        raise DataError.at(str(path), f"batch is not ascending numbers of graphs for {num_nodes} nodes", _MEND)
    told = read_count(path, arrays, "num_graphs") if "num_graphs" in arrays else 0
    count = _bearable(path, max(int(batch[-1]) + 1, told), "graphs")
    return np.concatenate([[0], np.cumsum(np.bincount(batch.astype(np.int64), minlength=count))]).astype(np.int64)


def read_count(path: Path, arrays: Mapping[str, NDArray[Any]], name: str) -> int:
    """Read how many of something there are: `num_nodes`, `num_graphs`.

    Raises:
        DataError: not a single whole number, or more than fits into memory.
    """
    value = arrays[name]
    if value.size != 1 or value.dtype.kind not in "iu" or int(value.max()) < 0:
        raise DataError.at(str(path), f"{name} is {value.dtype} {value.shape}, not one whole number", _MEND)
    return _bearable(path, int(value.max()), name.removeprefix("num_"))


def _bearable(path: Path, count: int, things: str) -> int:
    """Refuse a number that a damaged file may claim, before room is made for so many."""
    room = memory_bytes()
    if room is not None and count * _BYTES_EACH > room:
        raise DataError.at(str(path), f"claims to have {count} {things}, more than fits into memory", _MEND)
    return count


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
        DataError: numbers of graphs that the set has not, or an edge from one graph to another.
    """
    num_graphs, counts = len(pointers) - 1, np.diff(pointers)
    owner = np.repeat(np.arange(num_graphs), counts)
    whole = {"batch": owner, "num_graphs": np.array(num_graphs)}
    if graphs is None:
        pairs = values.get("edge_label_index", np.zeros((2, 0))).shape[1]
        count = {"graph": num_graphs, "pair": pairs}.get(level, len(owner))
        return Request({**values, **whole}, np.arange(count), count)
    found = select(str(path), owner, values["edge_index"], num_graphs, graphs)
    of_edges = ("edge_weight", "edge_attr", "edge_type")
    inputs = {name: value[found.edges] for name, value in values.items() if name in of_edges}
    inputs |= {name: values[name][found.nodes] for name in ("x", "node_type") if name in values}
    inputs["edge_index"] = found.edge_index
    inputs |= {"batch": found.batch, "num_graphs": np.array(len(graphs))}
    if level == "graph":
        return Request(inputs, graphs, num_graphs)
    return Request(inputs, found.nodes, len(owner))
