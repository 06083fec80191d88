"""Files of the safetensors format: a table in JSON, then the numbers. Nothing in one can run.

Layout (huggingface/safetensors, "Format"): the size of the table as uint64, little-endian; the table, which
gives dtype, shape and the first and last byte of each tensor; the numbers, without gaps.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, cast

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


class Entry(NamedTuple):
    """Say what a tensor is, and which bytes of the numbers are its own."""

    dtype: torch.dtype
    shape: list[int]
    start: int
    end: int


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
    entries = {name: _entry(path, name, entry, len(numbers)) for name, entry in table.items() if name != "__metadata__"}
    _require_tiles(path, entries, len(numbers))
    return {name: _tensor(entry, numbers) for name, entry in entries.items()}


def _require_tiles(path: Path, entries: Mapping[str, Entry], size: int) -> None:
    """Refuse tensors that share bytes or leave some out: a small file could name its bytes without end."""
    reached = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != reached:
            raise broken(path, f"its tensors overlap or leave a gap at byte {entry.start} of the numbers")
        reached = entry.end
    if reached != size:
        raise broken(path, f"its tensors end at byte {reached} of {size} bytes of numbers")


def _entry(path: Path, name: str, entry: Any, size: int) -> Entry:
    fields = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        mend = f"Save it in one of {', '.join(DTYPES)}"
        raise UsageError.at(str(path), f"tensor {quoted(name)} is of the unknown type {quoted(kind)}", mend)
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2 or offsets[1] > size:
        raise broken(path, f"tensor {quoted(name)} reaches outside the file")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise broken(path, f"tensor {quoted(name)} has another size than its shape")
    return Entry(dtype, shape, offsets[0], offsets[1])


def _tensor(entry: Entry, numbers: memoryview) -> Tensor:
    if entry.start == entry.end:
        return torch.zeros(entry.shape, dtype=entry.dtype)
    raw = torch.frombuffer(bytearray(numbers[entry.start : entry.end]), dtype=torch.uint8)
    return (raw != 0 if entry.dtype is torch.bool else raw.view(entry.dtype)).reshape(entry.shape)


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    """Tell whether a value is a list of sizes that a tensor can have."""
    plain = isinstance(value, list) and len(value) <= MOST_DIMENSIONS
    numbers = cast("list[Any]", value) if plain else []
    return plain and all(type(size) is int and size >= 0 for size in numbers) and _product(numbers) <= LARGEST_SIZE


def _product(sizes: list[int]) -> int:
    """Multiply sizes, of which none counts as 0: torch multiplies them for the strides of empty tensors too."""
    return math.prod(max(size, 1) for size in sizes)
