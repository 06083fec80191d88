"""Step sizes by the squared error that they leave, on a small grid."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnexport.program.dialect.quantize import LEAST_STEP, largest_level, levels

GRID = 32
"""Reaches tried, as shares of the largest magnitude."""
_ENTRIES = 1 << 22
"""Looked at in one go."""


def best_steps(x: Tensor, bits: Tensor, *, signed: bool, shared: bool = False) -> Tensor:
    """Return the step of each row whose levels are nearest to the row, by the squared error.

    Args:
        x: float32 [rows, columns].
        bits: float32 [rows] or [1].
        signed: levels below zero exist.
        shared: one step for all rows.

    Returns:
        float32 [rows], or [1]. A row of zeros is given the middle one of the others' steps.
    """
    if x.numel() == 0:
        return torch.ones(1 if shared else len(x))
    if shared:
        return best_steps(x.reshape(1, -1), bits[:1], signed=signed)
    bits = bits.expand(len(x))
    most = max(_ENTRIES // x.shape[1], 1)
    parts = zip(x.split(most), bits.split(most), strict=True)
    found = torch.cat([_best(part, width, signed) for part, width in parts])
    live = x.abs().amax(1) > 0
    middle = found[live].median() if bool(live.any()) else torch.tensor(1.0)
    return torch.where(live, found, middle).clamp(min=LEAST_STEP)


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
