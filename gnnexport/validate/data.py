"""Read the test data of a bundle from an `.npz` file, without torch."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.digest import structure_digest
from gnnexport.bundle.evaluation import EvalData
from gnnexport.bundle.manifest import Graph
from gnnexport.bundle.matrix import unpack_matrix
from gnnexport.errors import DataError


def read_test_data(path: Path, stored: EvalData, graph: Graph | None) -> EvalData:
    """Fill in features and labels from a data file.

    Args:
        path: `.npz` with `x` (or `x_data`, `x_indices`, `x_indptr`, `x_shape`) and `y`, nodes in the bundle's order.
        stored: the nodes judged and what the original model answered there.
        graph: the graph baked into the bundle.

    Raises:
        DataError: unreadable, incomplete, or of another graph.
    """
    arrays = _load(path)
    x = unpack_matrix(arrays, str(path))
    if x is None or "y" not in arrays:
        lacking = "features 'x'" if x is None else "labels 'y'"
        raise DataError.at(str(path), f"has no {lacking}", "Give the .npz the model was compressed with")
    if not np.isfinite(x).all():
        raise DataError.at(
            str(path), "features 'x' hold NaN or infinity", "Clean the features and write the file again"
        )
    _check_graph(path, arrays, x, graph)
    y = arrays["y"]
    if y.ndim != 1 or len(y) != len(x) or not np.issubdtype(y.dtype, np.integer):
        what = f"labels 'y' are {y.dtype} {y.shape} for {len(x)} nodes"
        raise DataError.at(str(path), what, "Give one integer label a node")
    return replace(stored, x=x, y=y[stored.rows].astype(np.int64))


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if path.suffix != ".npz":
        mend = "Convert it with numpy.savez(x=..., edge_index=..., y=...)"
        raise DataError.at(str(path), "only .npz data can be read without torch", mend)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise DataError.at(str(path), "no such file", "Give the .npz the model was compressed with") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError.at(str(path), f"cannot be read ({error})", "Write it again with numpy.savez") from error


def _check_graph(path: Path, arrays: dict[str, NDArray[Any]], x: NDArray[np.float32], graph: Graph | None) -> None:
    if graph is None:
        return
    mend = "Give the data the bundle was made from: its graph is baked in"
    if len(x) != graph.nodes:
        raise DataError.at(str(path), f"has {len(x)} nodes where the bundle has {graph.nodes}", mend)
    if "edge_index" not in arrays or graph.edge_index_sha256 is None:
        return
    if structure_digest(arrays["edge_index"]) != graph.edge_index_sha256:
        raise DataError.at(str(path), "has other edges, or the same in another order, than the bundle", mend)
