"""The arrays of a data file by name, whatever the format; nothing in the file is run."""

from __future__ import annotations

import tokenize
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from gnnexport.errors import DataError, UnsafeFileError, UsageError
from gnnexport.frontends.archive import DAMAGE
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
                if not isinstance(array, np.ndarray):
                    raise ValueError(f"{name} is not an array")
                if array.dtype.kind in "biuf":
                    arrays[name] = array
    except MemoryError as error:
        raise DataError.at(str(path), "does not fit into memory", "Use a smaller graph or fewer features") from error
    except (*DAMAGE, SyntaxError, TypeError, tokenize.TokenError) as error:
        # The last three come from numpy's parser of array headers.
        pickled = "allow_pickle" in str(error)
        what = "holds Python objects, not plain arrays" if pickled else "is truncated or damaged"
        mend = "Convert object arrays to numbers before numpy.savez" if pickled else "Copy it again, or write it again"
        raise DataError.at(str(path), what, mend) from error
    if "x" not in arrays and all(name in arrays for name in CSR):
        arrays["x"] = _dense(path, *(arrays[name] for name in CSR))
    return {name: _tensor(array) for name, array in arrays.items() if name not in CSR}


def _dense(path: Path, data: Any, indices: Any, indptr: Any, shape: Any) -> Any:
    """Densify CSR features: `x_data` [nnz], `x_indices` [nnz], `x_indptr` [N + 1], `x_shape` [2]."""
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise DataError.at(str(path), "x_indices or x_indptr are not integers", "Write them as int64")
    try:
        rows, columns = (int(size) for size in shape)
        matrix = sparse.csr_matrix((data.astype(np.float32), indices, indptr), shape=(rows, columns))
        matrix.check_format(full_check=True)
        return matrix.toarray()
    except (ValueError, TypeError, OverflowError) as error:
        what = f"x_data, x_indices, x_indptr, x_shape are not a CSR matrix ({error})"
        raise DataError.at(str(path), what, "Write them from scipy.sparse.csr_matrix") from error
    except MemoryError as error:
        what = f"dense features of shape {list(shape)} do not fit into memory"
        raise DataError.at(str(path), what, "Reduce the number of features") from error


def _read_torch(path: Path, trust: bool) -> dict[str, Tensor]:
    loaded = _load_trusted(path) if trust else _load_safely(path)
    if isinstance(loaded, tuple | list):
        what, mend = "holds several objects, not one graph", "Save one graph: torch.save(dataset[0], path)"
        raise DataError.at(str(path), what, mend)
    if not isinstance(loaded, Mapping):
        raise DataError.at(str(path), f"holds a {type(loaded).__name__}, not a graph", FORMAT_MEND)
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    dense = {name: value for name, value in tensors.items() if value.layout is torch.strided and not value.is_complex()}
    return {name: value.detach() for name, value in dense.items()}


def _load_safely(path: Path) -> object:
    try:
        return load_object(path)
    except UnsafeFileError as error:
        mend = "Save the arrays as .npz instead, or pass --trust if you know who wrote this file"
        raise UnsafeFileError(*(replace(problem, mend=mend) for problem in error.problems)) from error


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
