"""Choose a step and a width for each row: the fewest bits that are as good as those allowed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnnexport.native.packed_numpy import WIDTHS

Floats = NDArray[np.float32]

_LEAST_STEP = np.float32(1e-8)
_MOST_NUMBERS = 1 << 22
"""Numbers of the rows that are looked at at once."""

_ROUNDING = np.float32(1 + 1e-5)
"""What float32 adds to an error of half a step."""


class Widths(NamedTuple):
    """What rows are stored with.

    Args:
        step: float32 [rows].
        bits: int64 [rows], each one of `WIDTHS`.
    """

    step: Floats
    bits: NDArray[np.int64]


def choose_widths(x: Floats, most_bits: int, *, is_signed: bool) -> Widths:
    """Choose for each row the fewest bits that bring every number as near as `most_bits` promise to.

    That is half a step where the largest magnitude of the row is the largest number of `most_bits`. At each width two
    steps are tried: the one by which the largest magnitude is the largest number, and the smallest magnitude besides 0,
    by which rows of a few whole multiples are exact: one bit for a row of 0 and one other value.

    Args:
        x: float32 [rows, columns], finite.
        most_bits: 2, 4 or 8; with it a row is always stored, whatever its signs.
        is_signed: numbers may be negative.
    """
    widths = tuple(width for width in WIDTHS if width <= most_bits)
    step, bits = np.empty(len(x), np.float32), np.empty(len(x), np.int64)
    each = max(_MOST_NUMBERS // max(x.shape[1], 1), 1)
    for begin in range(0, len(x), each):
        part = slice(begin, begin + each)
        # What a step too large could reach is more than a float32 holds, and beyond the row all the same.
        with np.errstate(over="ignore"):
            step[part], bits[part] = _choose(x[part], widths, is_signed)
    return Widths(step, bits)


def most_of(bits: int, *, is_signed: bool) -> int:
    """Return the largest number of a width."""
    return (1 << (bits - is_signed)) - 1


def _choose(x: Floats, widths: tuple[int, ...], is_signed: bool) -> Widths:
    magnitude = np.abs(x)
    largest = magnitude.max(axis=1, initial=0)
    smallest = np.where(magnitude > 0, magnitude, np.float32(np.inf)).min(axis=1, initial=np.float32(np.inf))
    bound = largest / np.float32(2 * max(most_of(widths[-1], is_signed=is_signed), 1)) * _ROUNDING
    step, bits = np.full(len(x), _LEAST_STEP), np.full(len(x), widths[-1])
    bits[largest == 0] = widths[0]
    left = np.flatnonzero(largest > 0)
    for width in widths:
        most = most_of(width, is_signed=is_signed)
        if not most:
            continue
        for candidate, anyway in ((smallest, False), (largest / np.float32(most), width == widths[-1])):
            tried = np.maximum(candidate, _LEAST_STEP)
            rows = left[tried[left] * np.float32(most + 0.5) >= largest[left]]
            error = np.abs(_rounded(x[rows], tried[rows], most, is_signed) - x[rows]).max(axis=1, initial=0)
            fits = rows[(error <= bound[rows]) | anyway]
            step[fits], bits[fits] = tried[fits], width
            left = np.setdiff1d(left, fits, assume_unique=True)
    return Widths(step, bits)


def _rounded(x: Floats, step: Floats, most: int, is_signed: bool) -> Floats:
    scaled = x * (np.float32(1) / step)[:, None]
    low = np.float32(-most if is_signed else 0)
    whole = np.clip(scaled, low, np.float32(most))
    rounded: Floats = np.copysign(np.floor(np.abs(whole) + np.float32(0.5)), whole) * step[:, None]
    return rounded
