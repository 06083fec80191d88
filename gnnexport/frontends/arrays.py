"""The arrays of a data file by name, whatever the format; nothing in the file is run."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from gnnexport.errors import DataError, UsageError
from gnnexport.frontends.refusal import quoted
from gnnexport.frontends.unpickle import load_object

TORCH_SUFFIXES = (".pt", ".pth", ".pkl")
CSR = ("x_data", "x_indices", "x_indptr", "x_shape")
FORMAT_MEND = "Save a PyG Data with torch.save as .pt, or the arrays x, edge_index, y, train_mask … as .npz"


def read_arrays(path: Path, *, trust: bool = False) -> dict[str, Tensor]:
    """Read a file's tensors by name; sparse features come dense, as `x`.

    Raises:
        DataError: an unknown format, a damaged file, or no arrays in it.
        UnsafeFileError: a pickle that names something not on the safe list.
    """
    if not path.is_file():
        raise DataError.at(str(path), "no such file", FORMAT_MEND)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path, trust)
    raise DataError.at(str(path), f"unknown kind of data file '{path.suffix}'", FORMAT_MEND)


def _read_npz(path: Path) -> dict[str, Tensor]:
    arrays: dict[str, Any] = {}
    try:
        with path.open("rb") as file, zipfile.ZipFile(file), np.load(file, allow_pickle=False) as stored:
            for name in stored.files:
                array = stored[name]
                if array.dtype.kind in "biuf":
                    arrays[name] = array
    except MemoryError as error:
        raise DataError.at(str(path), "does not fit into memory", "Use a smaller graph or fewer features") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        pickled = "allow_pickle" in str(error)
        what = "holds Python objects, not plain arrays" if pickled else "is truncated or damaged"
        mend = "Convert object arrays to numbers before numpy.savez" if pickled else "Copy it again, or write it again"
        raise DataError.at(str(path), what, mend) from error
    if "x" not in arrays and all(name in arrays for name in CSR):
        arrays["x"] = _dense(path, *(arrays[name] for name in CSR))
    return {name: _tensor(array) for name, array in arrays.items() if name not in CSR}


def _dense(path: Path, data: Any, indices: Any, indptr: Any, shape: Any) -> Any:
    """Densify CSR features: `x_data` [nnz], `x_indices` [nnz], `x_indptr` [N + 1], `x_shape` [2]."""
    try:
        rows, columns = (int(size) for size in shape)
        matrix = sparse.csr_matrix((data.astype(np.float32), indices, indptr), shape=(rows, columns))
        matrix.check_format(full_check=True)
        return matrix.toarray()
    except (ValueError, TypeError) as error:
        what = f"x_data, x_indices, x_indptr, x_shape are not a CSR matrix ({error})"
        raise DataError.at(str(path), what, "Write them from scipy.sparse.csr_matrix") from error
    except MemoryError as error:
        what = f"dense features of shape {list(shape)} do not fit into memory"
        raise DataError.at(str(path), what, "Reduce the number of features") from error


def _read_torch(path: Path, trust: bool) -> dict[str, Tensor]:
    loaded = _load_trusted(path) if trust else load_object(path)
    if isinstance(loaded, tuple | list):
        what, mend = "holds several objects, not one graph", "Save one graph: torch.save(dataset[0], path)"
        raise DataError.at(str(path), what, mend)
    if not isinstance(loaded, Mapping):
        raise DataError.at(str(path), f"holds a {type(loaded).__name__}, not a graph", FORMAT_MEND)
    return {name: value.detach() for name, value in loaded.items() if isinstance(value, Tensor)}


def _load_trusted(path: Path) -> object:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise UsageError.at(str(path), f"cannot be loaded ({quoted(str(error))})", FORMAT_MEND) from error
    return loaded.to_dict() if hasattr(loaded, "to_dict") else loaded


def _tensor(array: Any) -> Tensor:
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
