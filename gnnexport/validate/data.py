"""Read the test data of a bundle from an `.npz` file, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.arrays import load_arrays
from gnnexport.bundle.digest import structure_digest
from gnnexport.bundle.evaluation import EvalData, input_digest
from gnnexport.bundle.manifest import Graph
from gnnexport.bundle.matrix import unpack_matrix
from gnnexport.errors import DataError
from gnnexport.measure.metrics import find
from gnnexport.validate.graph_sets import Request, read_count, select_graphs, set_pointers

_SAME = "Give the .npz the model was compressed with"
_OF = "__"
"""Stands before the kind in the names of arrays, where there are several kinds of nodes."""

_BAKED = "Give the data the bundle was made from: its graph is baked in"


def read_test_data(path: Path, stored: EvalData, graph: Graph | None) -> EvalData:
    """Fill in inputs and labels from a data file.

    Args:
        path: `.npz` with `x` (or `x_data`, `x_indices`, `x_indptr`, `x_shape`) and `y`, nodes in the bundle's order;
            where the bundle reads more, also `edge_index`, `edge_weight`, `edge_attr`, `edge_label_index` with
            `edge_label`, and for a set of graphs `node_ptr` or `batch`. With several kinds of nodes `x__paper` and
            so on, or `node_type` and `edge_type` where these became the kinds.
        stored: the rows judged and what the original model answered there.
        graph: the graph baked into the bundle; `None` where none is.

    Raises:
        DataError: unreadable, incomplete, or other data than the bundle was made from.
    """
    arrays = _load(path)
    if any(_OF in name for name in stored.digests):
        return _of_kinds(path, stored, arrays)
    x = _features(path, arrays)
    if graph is not None:
        _check_graph(path, arrays, x, graph)
    inputs, rows = _request(path, stored, arrays, x)
    y = _labels(path, stored, arrays, rows)
    return _same_as(path, stored, inputs, y[rows.rows])


def _same_as(path: Path, stored: EvalData, inputs: Mapping[str, NDArray[Any]], y: NDArray[Any]) -> EvalData:
    """Fill in what the original model was judged on, and refuse anything else."""
    for name, array in inputs.items():
        known = stored.digests.get(name)
        if known is not None and known != input_digest(array):
            what = f"its {name} is not the one the original model was judged on"
            raise DataError.at(str(path), what, _SAME)
    return replace(stored, inputs=inputs, y=y[stored.rows])


def _of_kinds(path: Path, stored: EvalData, arrays: Mapping[str, NDArray[Any]]) -> EvalData:
    """Read a graph of several kinds of nodes: arrays called as the inputs are, or one graph with types as numbers."""
    named = _by_type(path, stored, arrays) if "edge_index" in arrays else arrays
    if not stored.target:  # of a bundle made before it was kept
        stored = replace(stored, target=_only_target(path, named))
    inputs = {name: _of_kind(path, name, named) for name in stored.digests}
    count = len(_of_kind(path, f"x{stored.target}", named))
    y = _labels(path, stored, named, Request({}, np.arange(count), count))
    return _same_as(path, stored, inputs, y)


def _only_target(path: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the one kind of nodes that has labels."""
    found = [name.removeprefix("y") for name in arrays if name.startswith(f"y{_OF}")]
    if len(found) != 1:
        what = f"has labels for {len(found)} kinds of nodes, and the bundle does not say which it is judged on"
        raise DataError.at(str(path), what, "Give labels of that kind alone, or make the bundle again")
    return found[0]


def _of_kind(path: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Read what belongs to one kind of nodes or edges, in the type and shape that models read."""
    array = _required(path, name, arrays)
    base, _, kind = name.partition(_OF)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DataError.at(str(path), f"{name} is {array.dtype} {array.shape}, not rows of real numbers", _SAME)
    if base in ("x", "edge_index"):
        return array.astype(np.float32 if base == "x" else np.int64)
    return _edge_values(path, name, array, _required(path, f"edge_index{_OF}{kind}", arrays))


def _by_type(path: Path, stored: EvalData, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Name the arrays of one graph by the kinds that its `node_type` and `edge_type` number."""
    x = _features(path, arrays)
    of_edges = [name for name in ("edge_weight", "edge_attr") if name in arrays]
    names = ("edge_index", "edge_type", "node_type", *of_edges)
    values = _wanted(path, _columns(path, arrays, names, len(x)), names)
    y = _labels(path, replace(stored, target=""), arrays, Request({}, np.arange(len(x)), len(x)))
    node_type, edge_index = values["node_type"], values["edge_index"]
    place = np.empty(len(x), np.int64)
    found: dict[str, NDArray[Any]] = {}
    for kind in np.unique(node_type):
        rows = np.flatnonzero(node_type == kind)
        place[rows] = np.arange(len(rows))
        found |= {f"x{_OF}{kind}": x[rows], f"y{_OF}{kind}": y[rows]}
    for relation in np.unique(values["edge_type"]):
        columns = np.flatnonzero(values["edge_type"] == relation)
        source, destination = node_type[edge_index[:, columns[0]]]
        suffix = f"{_OF}{source}{_OF}{relation}{_OF}{destination}"
        found[f"edge_index{suffix}"] = place[edge_index[:, columns]]
        found |= {name + suffix: values[name][columns] for name in of_edges}
    return found


def _request(
    path: Path, stored: EvalData, arrays: Mapping[str, NDArray[Any]], x: NDArray[np.float32]
) -> tuple[dict[str, NDArray[Any]], Request]:
    """Make the arrays that the bundle reads, and tell which rows of the labels they are about."""
    wanted = tuple(stored.digests) or ("x",)
    if stored.graphs is None and "num_graphs" not in wanted and "batch" not in wanted:
        values = {"x": x, **_columns(path, arrays, wanted, len(x))}
        count = {"node": len(x), "pair": _num_pairs(values)}.get(stored.level, 1)
        return _wanted(path, values, wanted), Request({}, np.arange(count), count)
    edges = _columns(path, arrays, ("edge_index", *wanted), len(x))
    pointers = set_pointers(path, arrays, len(x))
    request = select_graphs(path, {"x": x, **edges}, pointers, stored.graphs, stored.level)
    return _wanted(path, request.inputs, wanted), request


def _wanted(path: Path, values: Mapping[str, NDArray[Any]], wanted: Iterable[str]) -> dict[str, NDArray[Any]]:
    return {name: _required(path, name, values) for name in wanted}


def _required(path: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if name not in arrays:
        raise DataError.at(str(path), f"has no '{name}'", _SAME)
    return arrays[name]


def _features(path: Path, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    if "x" in arrays and arrays["x"].dtype.kind not in "biuf":
        raise DataError.at(str(path), f"features 'x' are {arrays['x'].dtype}, not real numbers", "Write x as float32")
    try:
        x = unpack_matrix(arrays, str(path))
    except (TypeError, ValueError, IndexError, MemoryError) as error:
        raise DataError.at(str(path), f"features 'x' cannot be read ({error})", _SAME) from error
    if x is not None and x.ndim != 2:
        raise DataError.at(str(path), f"features 'x' are of shape {x.shape}", "Write x as float32 [num_nodes, n]")
    count = _num_nodes(path, arrays) if x is None and "edge_index" in arrays else None
    if count is not None:
        # Without features the model was given the in-degree of each node.
        edges = _columns(path, arrays, ("edge_index",), count)["edge_index"]
        x = np.bincount(edges[1], minlength=count).astype(np.float32)[:, None]
    if x is None:
        raise DataError.at(str(path), "has no features 'x'", _SAME)
    if not np.isfinite(x).all():
        mend = "Clean the features and write the file again"
        raise DataError.at(str(path), "features 'x' hold NaN or infinity", mend)
    return x


def _num_nodes(path: Path, arrays: Mapping[str, NDArray[Any]]) -> int | None:
    """Count the nodes of data without features, by the first array that tells; `None` where none does."""
    for name in ("num_nodes", "node_ptr", "ptr"):
        if name in arrays:
            last = arrays[name] if name == "num_nodes" else arrays[name].reshape(-1)[-1:]
            return read_count(path, {"num_nodes": last}, "num_nodes")
    return arrays["batch"].size if "batch" in arrays else None


def _columns(
    path: Path, arrays: Mapping[str, NDArray[Any]], wanted: Iterable[str], num_nodes: int
) -> dict[str, NDArray[Any]]:
    """Read what belongs to edges and pairs, in the types that models read; other names are left alone."""
    found: dict[str, NDArray[Any]] = {}
    for name in dict.fromkeys(wanted):
        if name == "node_type" and name in arrays and arrays[name].size == num_nodes:
            found[name] = arrays[name].reshape(-1).astype(np.int64)
        if not name.startswith("edge_"):
            continue
        array = _required(path, name, arrays)
        if name.endswith("_index"):
            found[name] = _indices(path, name, array, num_nodes)
        else:
            found[name] = _edge_values(path, name, array, _required(path, "edge_index", arrays))
    return found


def _edge_values(path: Path, name: str, array: NDArray[Any], edge_index: NDArray[Any]) -> NDArray[Any]:
    """Read a row for each edge: `edge_type` and `edge_weight` [num_edges], `edge_attr` [num_edges, channels]."""
    edges = edge_index.size // 2
    if array.ndim not in (1, 2) or len(array) != edges or array.dtype.kind not in "biuf":
        what = f"{name} is {array.dtype} {array.shape} for {edges} edges"
        raise DataError.at(str(path), what, "Give one row of numbers an edge")
    if name.startswith("edge_type"):
        return array.reshape(-1).astype(np.int64)
    if name.startswith("edge_attr"):
        return (array[:, None] if array.ndim == 1 else array).astype(np.float32)
    flat = array.ndim == 2 and array.shape[1] == 1
    return (array[:, 0] if flat else array).astype(np.float32)


def _indices(path: Path, name: str, array: NDArray[Any], num_nodes: int) -> NDArray[np.int64]:
    if not np.issubdtype(array.dtype, np.integer) or array.ndim != 2 or len(array) != 2:
        raise DataError.at(str(path), f"{name} is {array.dtype} {array.shape}", f"Write {name} as int64 [2, n]")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < num_nodes:
        wrong = int(array.min()) if int(array.min()) < 0 else int(array.max())
        raise DataError.at(str(path), f"{name} holds {wrong}, which is none of its {num_nodes} nodes", _SAME)
    return array.astype(np.int64)


def _labels(path: Path, stored: EvalData, arrays: Mapping[str, NDArray[Any]], request: Request) -> NDArray[Any]:
    """Read labels in the form that the metric takes: classes int64, anything else float32."""
    name = "edge_label" if stored.level == "pair" and "edge_label" in arrays else f"y{stored.target}"
    if name not in arrays:
        raise DataError.at(str(path), f"has no labels '{name}'", _SAME)
    y = np.atleast_1d(arrays[name])
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim not in (1, 2) or len(y) != request.count or y.dtype.kind not in "biuf":
        what = f"labels '{name}' are {y.dtype} {y.shape} for {request.count} {stored.level}s"
        raise DataError.at(str(path), what, f"Give one label a {stored.level}, as a number")
    if find(stored.metric).reads == "class":
        # Classes may come as floats, NaN where unknown.
        known = ~np.isnan(y)
        if y.ndim == 2 or np.isinf(y).any() or not np.array_equal(y[known], np.round(y[known])):
            what = f"labels '{name}' are {y.dtype} {y.shape}, where {stored.metric} wants one class a row"
            raise DataError.at(str(path), what, f"Give one integer label a {stored.level}")
        return np.where(known, y, -1).astype(np.int64)
    if y.ndim == 2 and y.dtype.kind in "iu" and find(stored.metric).reads != "value":
        return np.where(y < 0, np.nan, y).astype(np.float32)
    return y.astype(np.float32)


def _num_pairs(values: Mapping[str, NDArray[Any]]) -> int:
    pairs = values.get("edge_label_index")
    return 0 if pairs is None else int(pairs.shape[1])


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if path.suffix != ".npz":
        mend = "Convert it with numpy.savez(x=..., edge_index=..., y=...)"
        raise DataError.at(str(path), "only .npz data can be read without torch", mend)
    return load_arrays(path, DataError, "Write it again with numpy.savez")


def _check_graph(path: Path, arrays: Mapping[str, NDArray[Any]], x: NDArray[np.float32], graph: Graph) -> None:
    if len(x) != graph.nodes:
        raise DataError.at(str(path), f"has {len(x)} nodes where the bundle has {graph.nodes}", _BAKED)
    if "edge_index" not in arrays or graph.edge_index_sha256 is None:
        return
    if structure_digest(arrays["edge_index"]) != graph.edge_index_sha256:
        raise DataError.at(str(path), "has other edges, or the same in another order, than the bundle", _BAKED)
