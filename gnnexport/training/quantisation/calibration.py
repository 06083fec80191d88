"""Choose steps from values: by the squared error that they leave, their largest magnitude, or a percentile of it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gnnexport.program.dialect.quantize import LEAST_STEP, largest_level, levels

GRID = 32
"""Reaches tried, as shares of the largest magnitude."""
MOST_ENTRIES = 16_384
"""Entries of a group that the error is measured on, spread evenly over them."""
_ENTRIES = 1 << 22
"""Looked at in one go."""

Range = Literal["error", "minmax"]

Groups = Literal["tensor", "rows", "columns"]
"""What shares a step: all entries, those of a row, or those of a column."""


def calibrate(
    values: Tensor, bits: Tensor | float, *, signed: bool, groups: Groups, fit: Range = "error", percentile: float = 100
) -> Tensor:
    """Return a step for each group.

    A group that is all zero tells nothing: it gets the middle one of the others' steps, or one where there are none.

    Args:
        values: [rows, ...].
        bits: of the levels, one for all or one for each group.
        signed: whether levels below zero exist.
        groups: what shares a step.
        fit: with `minmax` the largest level is the largest magnitude, with `error` what costs least squared error.
        percentile: with `minmax`, of the magnitudes; those above are clipped.

    Returns:
        float32 [groups].
    """
    matrix = grouped(values.detach().float(), groups)
    if matrix.numel() == 0:
        return torch.ones(len(matrix))
    wide = torch.as_tensor(bits, dtype=torch.float32).expand(len(matrix))
    if fit == "error":
        return best_steps(matrix[:, :: math.ceil(matrix.shape[1] / MOST_ENTRIES)], wide, signed=signed)
    # A signed row of one bit has no level but zero.
    step = _percentile(matrix.abs(), percentile) / largest_level(wide, signed).clamp(min=1)
    return _with_middle(step, step > 0)


def grouped(values: Tensor, groups: Groups) -> Tensor:
    """Lay values out with a row for each group."""
    if groups == "tensor":
        return values.reshape(1, -1)
    matrix = values.reshape(values.shape[0], math.prod(values.shape[1:]))
    return matrix if groups == "rows" else matrix.t()


def _percentile(magnitudes: Tensor, percentile: float) -> Tensor:
    place = max(math.ceil(magnitudes.shape[1] * percentile / 100), 1)
    return magnitudes.amax(1) if place == magnitudes.shape[1] else magnitudes.kthvalue(place, 1).values


def _with_middle(step: Tensor, known: Tensor) -> Tensor:
    """Give groups that tell no step the middle one of the others'."""
    middle = step[known].median() if bool(known.any()) else torch.ones(())
    return torch.where(known, step, middle).clamp(min=LEAST_STEP)


def best_steps(x: Tensor, bits: Tensor, *, signed: bool) -> Tensor:
    """Return the step of each row whose levels are nearest to the row, by the squared error.

    Args:
        x: float32 [rows, columns].
        bits: float32 [rows] or [1].
        signed: levels below zero exist.

    Returns:
        float32 [rows]. A row of zeros is given the middle one of the others' steps.
    """
    if x.numel() == 0:
        return torch.ones(len(x))
    bits = bits.expand(len(x))
    most = max(_ENTRIES // x.shape[1], 1)
    parts = zip(x.split(most), bits.split(most), strict=True)
    found = torch.cat([_best(part, width, signed) for part, width in parts])
    return _with_middle(found, x.abs().amax(1) > 0)


def _best(x: Tensor, bits: Tensor, signed: bool) -> Tensor:
    top = largest_level(bits, signed).clamp(min=1)
    largest = x.abs().amax(1)
    best, least = largest / top, torch.full((len(x),), float("inf"))
    for share in range(GRID, 0, -1):
        step = (largest * share / GRID / top).clamp(min=LEAST_STEP)
        error = squared_errors(x, step, bits, signed=signed)
        better = error < least
        best, least = torch.where(better, step, best), torch.where(better, error, least)
    return best


def squared_errors(x: Tensor, step: Tensor, bits: Tensor, *, signed: bool) -> Tensor:
    """Return the sum of squares that rounding each row leaves, float32 [rows].

    Args:
        x: [rows, columns].
        step: [rows] or [1].
        bits: likewise.
        signed: levels below zero exist.
    """
    step, bits = step[:, None], bits[:, None]
    return (levels(x, step, bits, signed) * step - x).square().sum(1)


def group_steps(x: Tensor, bits: float, groups: int, *, signed: bool) -> Tensor:
    """Return steps of groups whose reaches are spread as the largest magnitudes of rows are.

    Args:
        x: [rows, columns].
        bits: of every group.
        groups: at most; no more than rows.
        signed: levels below zero exist.
    """
    largest = x.abs().amax(1) if x.numel() else torch.ones(1)
    largest = largest[largest > 0] if bool((largest > 0).any()) else torch.ones(1)
    count = max(min(groups, len(largest)), 1)
    places = (torch.arange(count) + 0.5) / count * len(largest)
    reach = largest.sort().values[places.long().clamp(max=len(largest) - 1)]
    top = largest_level(torch.tensor([bits]), signed).clamp(min=1)
    return (reach / top).clamp(min=LEAST_STEP)


def exact_rows(x: Tensor, containers: tuple[int, ...], *, signed: bool) -> tuple[Tensor, Tensor] | None:
    """Return step and width of each row that represent it exactly, the narrowest; `None` where a row has none.

    Args:
        x: [rows, columns].
        containers: widths that may be used, ascending.
        signed: levels below zero exist.
    """
    magnitude = x.abs()
    smallest = torch.where(magnitude > 0, magnitude, torch.full_like(magnitude, float("inf"))).amin(1)
    step = torch.where(smallest.isfinite(), smallest, torch.ones_like(smallest))
    bits = torch.zeros(len(x))
    for width in reversed(containers):
        wide = torch.full((1,), float(width))
        exact = (levels(x, step[:, None], wide[:, None], signed) * step[:, None] == x).all(1)
        bits = torch.where(exact, wide, bits)
    return None if bool((bits == 0).any()) else (step, bits)
