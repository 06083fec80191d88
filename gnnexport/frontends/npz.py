"""Files of `numpy.savez`, read array by array: no object is unpickled, and no claimed size is believed."""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from scipy import sparse
from torch import Tensor

from gnnexport.errors import DataError
from gnnexport.frontends.archive import DAMAGE
from gnnexport.frontends.memory import require_memory
from gnnexport.frontends.refusal import quoted

SUFFIX = ".npy"
CSR = ("x_data", "x_indices", "x_indptr", "x_shape")
REAL = ("x", "x_data", "edge_weight", "edge_attr")
"""Arrays that become float32; indices and labels become int64."""

HEADER_FAULTS = (SyntaxError, TypeError, KeyError, tokenize.TokenError, RecursionError)
"""What numpy's parser of array headers raises on damage, besides what a damaged zip file raises."""

CHUNK = 2**24
AGAIN_MEND = "Copy it again, or write it again with numpy.savez"
KINDS = {"S": "text", "U": "text", "M": "dates", "m": "durations", "V": "records"}
"""What kinds of numpy arrays that are not numbers hold."""


def read_npz(path: Path, is_known: Callable[[str], bool]) -> tuple[dict[str, Tensor], list[str]]:
    """Read the arrays with known names, and list the others; sparse features come dense, as `x`.

    Raises:
        DataError: a damaged file, Python objects or text where numbers belong, or more than fits into memory.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = _members(path, archive)
            wanted = [name for name in members if is_known(name) or name in CSR]
            if "x" in members or not all(name in members for name in CSR):
                wanted = [name for name in wanted if name not in CSR]
            arrays: dict[str, Any] = {}
            for name in wanted:
                kept = sum(_needed_bytes(held, array.size, array.dtype) for held, array in arrays.items())
                arrays[name] = _read_array(path, archive, name, members[name], kept)
    except MemoryError as error:
        raise DataError.at(str(path), "does not fit into memory", "Use a smaller graph or fewer features") from error
    except (*DAMAGE, *HEADER_FAULTS) as error:
        raise DataError.at(str(path), "is truncated or damaged", AGAIN_MEND) from error
    if CSR[0] in arrays:
        arrays["x"] = _dense(path, *(arrays[name] for name in CSR))
    tensors = {name: as_tensor(array, name, str(path)) for name, array in arrays.items() if name not in CSR}
    return tensors, sorted(set(members) - set(wanted))


def as_tensor(array: Any, name: str, where: str) -> Tensor:
    """Turn a numpy array of numbers into a tensor of a type that torch computes with.

    Raises:
        DataError: it holds text, dates, objects or integers of more than 63 bits.
    """
    kind = array.dtype.kind
    if kind not in "biufc":
        what = f"{name} holds {KINDS.get(kind, 'Python objects')}, not numbers"
        raise DataError.at(where, what, "Convert it to numbers before saving it")
    if kind == "u" and array.dtype.itemsize > 1:
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise DataError.at(where, f"{name} holds {array.max()}, which int64 cannot", "Write it as int64")
        array = array.astype(np.int64)
    elif kind in "fc" and array.dtype.itemsize > (8 if kind == "f" else 16):
        array = array.astype(np.float64 if kind == "f" else np.complex128)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    plain = np.ascontiguousarray(array).reshape(array.shape)
    return torch.from_numpy(plain if plain.flags.writeable else plain.copy())


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(SUFFIX)
        if name in members:
            raise DataError.at(str(path), f"holds the array {quoted(name)} twice", "Write it again with numpy.savez")
        members[name] = info
    if not any(info.filename.endswith(SUFFIX) for info in members.values()):
        what = "is a zip file without arrays"
        raise DataError.at(str(path), what, "Write it with numpy.savez(path, x=x, edge_index=edge_index, y=y)")
    return members


def _needed_bytes(name: str, count: int, dtype: np.dtype[Any]) -> int:
    """Count the bytes of an array once it has the type that is computed with."""
    least = 1 if name.endswith("_mask") else 4 if name in REAL else 8
    return count * max(dtype.itemsize, least)


def _read_array(path: Path, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo, kept_bytes: int) -> Any:
    """Read one array, if it fits into memory beside those that are kept already."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Another decompressor takes the memory that the file asks for.
        raise DataError.at(str(path), f"{name} is compressed in a way that numpy does not write", AGAIN_MEND)
    with archive.open(info) as file:
        shape, fortran, dtype = _header(file)
        if dtype.hasobject:
            what = f"{name} holds Python objects, not plain arrays"
            raise DataError.at(str(path), what, "Convert object arrays to numbers before numpy.savez")
        size_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or file.tell() + size_bytes != info.file_size:
            what = f"is truncated or damaged: {name} claims the shape {quoted(str(list(shape)))}"
            raise DataError.at(str(path), what, AGAIN_MEND)
        needed_bytes = _needed_bytes(name, math.prod(shape), dtype)
        others = " and what was read before it" if kept_bytes else ""
        require_memory(kept_bytes + needed_bytes, str(path), f"{name}{others}")
        buffer = np.empty(size_bytes, dtype=np.uint8)
        done = 0
        while done < size_bytes:
            chunk = file.read(min(CHUNK, size_bytes - done))
            if not chunk:
                raise EOFError
            buffer[done : done + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
            done += len(chunk)
        # Reading past the end makes the zip file check its sum.
        file.read(1)
        return np.ndarray(shape, dtype=dtype, buffer=buffer, order="F" if fortran else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version}")
    with warnings.catch_warnings():
        # numpy warns of headers as Python 2 wrote them, and of old names of types; both read well.
        warnings.simplefilter("ignore")
        return npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)


def _dense(path: Path, data: Any, indices: Any, indptr: Any, shape: Any) -> Any:
    """Densify CSR features: `x_data` [nnz], `x_indices` [nnz], `x_indptr` [N + 1], `x_shape` [2]."""
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu" or shape.dtype.kind not in "iu":
        raise DataError.at(str(path), "x_indices, x_indptr or x_shape are not integers", "Write them as int64")
    if data.dtype.kind not in "biuf":
        raise DataError.at(str(path), "x_data is not made of real numbers", "Write it as float32")
    try:
        rows, columns = (int(size) for size in shape)
        require_memory(4 * rows * columns, str(path), f"x of shape [{rows}, {columns}], written out,")
        with np.errstate(over="ignore"):
            values = data.astype(np.float32)
        matrix = sparse.csr_matrix((values, indices, indptr), shape=(rows, columns))
        matrix.check_format(full_check=True)
        return matrix.toarray()
    except (ValueError, TypeError, OverflowError) as error:
        what = f"x_data, x_indices, x_indptr, x_shape are not a CSR matrix ({quoted(str(error))})"
        raise DataError.at(str(path), what, "Write them from scipy.sparse.csr_matrix") from error
    except MemoryError as error:
        what = f"dense features of shape {list(shape)} do not fit into memory"
        raise DataError.at(str(path), what, "Reduce the number of features") from error


def as_tensors(arrays: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Turn what a loader function gives by name into tensors: arrays, tensors, and plain numbers."""
    found: dict[str, Tensor] = {}
    for name, value in arrays.items():
        if isinstance(value, Tensor):
            found[name] = value.detach()
        elif isinstance(value, np.ndarray | np.generic):
            found[name] = as_tensor(np.asarray(value), name, where)
        elif isinstance(value, bool | int | float) and abs(value) < 2**63:
            found[name] = torch.tensor(value)
    return found
