"""Node features as they lie in an `.npz`: dense `x`, or CSR `x_data`, `x_indices`, `x_indptr`, `x_shape`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import DataError

_PARTS = ("x_data", "x_indices", "x_indptr", "x_shape")


def pack_matrix(x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Store a matrix the smaller of the two ways."""
    rows, columns = np.nonzero(x)
    if len(rows) * 8 + (x.shape[0] + 1) * 8 >= x.nbytes:
        return {"x": x}
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=x.shape[0]))]).astype(np.int64)
    shape = np.asarray(x.shape, np.int64)
    return dict(zip(_PARTS, (x[rows, columns], columns.astype(np.int32), indptr, shape), strict=True))


def unpack_matrix(arrays: Mapping[str, NDArray[Any]], where: str) -> NDArray[np.float32] | None:
    """Read a matrix stored either way; `None` when there is neither.

    Returns:
        float32 [num_nodes, channels].

    Raises:
        DataError: CSR arrays that do not fit together.
    """
    if "x" in arrays:
        return np.ascontiguousarray(arrays["x"], np.float32)
    if not all(part in arrays for part in _PARTS):
        return None
    data, indices, indptr, shape = (arrays[part] for part in _PARTS)
    num_rows, num_columns = (int(size) for size in shape)
    fits = (
        indptr.shape == (num_rows + 1,)
        and len(data) == len(indices) == (int(indptr[-1]) if len(indptr) else 0)
        and bool(np.all(np.diff(indptr) >= 0))
        and (len(indices) == 0 or (int(indices.min()) >= 0 and int(indices.max()) < num_columns))
    )
    if not fits:
        raise DataError.at(where, "x_data, x_indices, x_indptr and x_shape do not fit together", "Write the file again")
    x = np.zeros((num_rows, num_columns), np.float32)
    x[np.repeat(np.arange(num_rows), np.diff(indptr)), indices] = data
    return x
