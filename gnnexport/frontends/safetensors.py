"""Files of the safetensors format: a table in JSON, then the numbers. Nothing in one can run.

Layout (huggingface/safetensors, "Format"): the size of the table as uint64, little-endian; the table, which
gives dtype, shape and the first and last byte of each tensor; the numbers, without gaps.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor

from gnnexport.errors import UsageError
from gnnexport.frontends.refusal import broken, one_line, quoted, require_file
from gnnexport.frontends.tensors import MOST_DIMENSIONS

LARGEST_TABLE = 100_000_000
LARGEST_SIZE = 2**60
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name.

    Raises:
        UsageError: the file is missing or damaged, or holds tensors of a type that is not known.
    """
    require_file(path, "Give the path of a .safetensors file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise broken(path, f"cannot be read ({one_line(error)})", "Ask for the right to read it") from error
    size = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else LARGEST_TABLE + 1
    if size > min(LARGEST_TABLE, len(data) - 8):
        raise broken(path, "is truncated, or no safetensors file", "Copy it again, or write it again")
    try:
        table = json.loads(data[8 : 8 + size].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise broken(path, f"its table cannot be read ({quoted(str(error))})") from error
    if not isinstance(table, dict):
        raise broken(path, "its table is not a table")
    numbers = memoryview(data)[8 + size :]
    return {name: _tensor(path, name, entry, numbers) for name, entry in table.items() if name != "__metadata__"}


def _tensor(path: Path, name: str, entry: Any, numbers: memoryview) -> Tensor:
    fields = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        mend = f"Save it in one of {', '.join(DTYPES)}"
        raise UsageError.at(str(path), f"tensor {quoted(name)} is of the unknown type {quoted(kind)}", mend)
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2 or offsets[1] > len(numbers):
        raise broken(path, f"tensor {quoted(name)} reaches outside the file")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise broken(path, f"tensor {quoted(name)} has another size than its shape")
    if not math.prod(shape):
        return torch.zeros(shape, dtype=dtype)
    raw = torch.frombuffer(bytearray(numbers[offsets[0] : offsets[1]]), dtype=torch.uint8)
    return (raw != 0 if dtype is torch.bool else raw.view(dtype)).reshape(shape)


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    """Tell whether a value is a list of sizes that a tensor can have."""
    plain = isinstance(value, list) and len(value) <= MOST_DIMENSIONS
    numbers = cast("list[Any]", value) if plain else []
    return plain and all(type(size) is int and size >= 0 for size in numbers) and _product(numbers) <= LARGEST_SIZE


def _product(sizes: list[int]) -> int:
    """Multiply sizes, of which none counts as 0: torch multiplies them for the strides of empty tensors too."""
    return math.prod(max(size, 1) for size in sizes)
