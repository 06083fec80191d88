"""`eval.npz`: what accuracy is measured on, and what the original model answered there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.arrays import read_arrays, write_arrays
from gnnexport.bundle.matrix import pack_matrix, unpack_matrix
from gnnexport.errors import UsageError


@dataclass(frozen=True)
class EvalData:
    """The test split.

    Args:
        metric: name of the metric.
        rows: int64 [n], the nodes judged.
        baseline: int64 [n], the class the original model gives each of them.
        y: int64 [n], their labels; `None` when data was not to be embedded.
        x: float32 [num_nodes, channels], features of all nodes; `None` like `y`, or when they are baked in.
        split: name of the split.
    """

    metric: str
    rows: NDArray[np.int64]
    baseline: NDArray[np.int64]
    y: NDArray[np.int64] | None = None
    x: NDArray[np.float32] | None = None
    split: str = "test"


def write_eval(path: Path, data: EvalData, *, limit_bytes: int = 64_000_000) -> EvalData:
    """Write the split; return what was kept of it.

    Features and labels are left out when, uncompressed, they take more than the limit: `validate` then wants
    the data.
    """
    packed = {} if data.x is None else pack_matrix(data.x)
    embedded = sum(array.nbytes for array in packed.values()) + (0 if data.y is None else data.y.nbytes)
    if embedded > limit_bytes:
        data, packed = replace(data, x=None, y=None), {}
    arrays = {"rows": data.rows, "baseline": data.baseline, **packed}
    if data.y is not None:
        arrays["y"] = data.y
    write_arrays(path, {"schema": 1, "metric": data.metric, "split": data.split}, arrays)
    return data


def read_eval(path: Path) -> EvalData:
    """Read the split.

    Raises:
        UsageError: damaged, or not such a file.
    """
    description, arrays = read_arrays(path)
    try:
        return EvalData(
            metric=description["metric"],
            rows=arrays["rows"],
            baseline=arrays["baseline"],
            y=arrays.get("y"),
            x=unpack_matrix(arrays, str(path)),
            split=description["split"],
        )
    except KeyError as error:
        raise UsageError.at(str(path), f"lacks {error}", "Make the bundle again") from None
