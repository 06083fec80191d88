"""What rows of few bits take where they are stored packed, as `gnnexport.native.packed` lays them out."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnexport.native.packed_numpy import GROUP, WIDTHS

CONTAINERS: tuple[int, ...] = tuple(WIDTHS)
"""Bits that a number may take, ascending."""

STEP_BYTES = 4
"""Of the step of a row."""
CODE_BITS = 2
"""Tell the container of a row."""
ANCHOR_BYTES = 8
"""Tell where every so many rows begin."""


def container_of(bits: Tensor) -> Tensor:
    """Return the smallest container that holds numbers of each width, float32."""
    sizes = torch.tensor(CONTAINERS, dtype=torch.float32)
    return sizes[torch.searchsorted(sizes, bits.float().contiguous())]


def row_bytes(bits: Tensor, width: int) -> Tensor:
    """Return the bytes of rows of `width` numbers, float64; each begins at a byte of its own."""
    return (bits.double() * width / 8).ceil()


def index_bytes(rows: float) -> int:
    """Return the bytes that tell the container of each row and where it begins."""
    count = torch.tensor(rows, dtype=torch.float64)
    return int((count * CODE_BITS / 8).ceil()) + int((count / GROUP).ceil()) * ANCHOR_BYTES
