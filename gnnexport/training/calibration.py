"""Choose steps from values: by their largest magnitude, a percentile of it, or the least squared error."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gnnexport.program.dialect.quantize import LEAST_STEP, largest_level
from gnnexport.training.quantisation.calibration import best_steps

Range = Literal["error", "minmax"]

Groups = Literal["tensor", "rows", "columns"]
"""What shares a step: all entries, those of a row, or those of a column."""

MOST_ENTRIES = 16_384
"""Entries of a group that the error is measured on, spread evenly over them."""


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
    if matrix.shape[1] == 0 or matrix.shape[0] == 0:
        return torch.ones(len(matrix))
    wide = torch.as_tensor(bits, dtype=torch.float32).expand(len(matrix))
    if fit == "error":
        return best_steps(matrix[:, :: math.ceil(matrix.shape[1] / MOST_ENTRIES)], wide, signed=signed)
    # A signed row of one bit has no level but zero.
    step = _percentile(matrix.abs(), percentile) / largest_level(wide, signed).clamp(min=1)
    known = step > 0
    middle = step[known].median() if bool(known.any()) else torch.ones(())
    return torch.where(known, step, middle).clamp(min=LEAST_STEP)


def grouped(values: Tensor, groups: Groups) -> Tensor:
    """Lay values out with a row for each group."""
    if groups == "tensor":
        return values.reshape(1, -1)
    matrix = values.reshape(values.shape[0], math.prod(values.shape[1:]))
    return matrix if groups == "rows" else matrix.t()


def _percentile(magnitudes: Tensor, percentile: float) -> Tensor:
    place = max(math.ceil(magnitudes.shape[1] * percentile / 100), 1)
    return magnitudes.amax(1) if place == magnitudes.shape[1] else magnitudes.kthvalue(place, 1).values
