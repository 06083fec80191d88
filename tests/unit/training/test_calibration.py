from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gnnexport.program.dialect.quantize import levels
from gnnexport.training.quantisation.calibration import Groups, calibrate, grouped

VALUES = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 6)


def error(values: Tensor, step: Tensor, bits: float, groups: Groups, *, signed: bool = True) -> Tensor:
    """Return the squared error of each group."""
    matrix = grouped(values, groups)
    wide = torch.full((len(matrix), 1), bits)
    return (levels(matrix, step[:, None], wide, signed) * step[:, None] - matrix).square().sum(1)


@pytest.mark.parametrize(("groups", "count"), [("tensor", 1), ("rows", 50), ("columns", 6)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_fit_is_the_best_of_many(groups: Groups, count: int, bits: int) -> None:
    """No step of a fine grid has a squared error far below that of the step chosen, and the range never clips less."""
    step = calibrate(VALUES, bits, signed=True, groups=groups)
    widest = calibrate(VALUES, bits, signed=True, groups=groups, fit="minmax")
    assert step.shape == (count,)
    assert bool((step <= widest * 1.0001).all())
    found = error(VALUES, step, bits, groups)
    fine = torch.stack([error(VALUES, widest * share, bits, groups) for share in torch.linspace(0.05, 1, 400)])
    assert bool((found <= error(VALUES, widest, bits, groups) * 1.0001).all())
    assert float(found.sum()) <= 1.25 * float(fine.amin(0).sum())


def test_the_range_reaches_the_largest_magnitude() -> None:
    """With `minmax` the largest level stands for the largest magnitude; unsigned there are twice as many levels."""
    assert torch.allclose(calibrate(VALUES, 8, signed=True, groups="columns", fit="minmax"), VALUES.abs().amax(0) / 127)
    positive = VALUES.relu()
    step = calibrate(positive, 8, signed=False, groups="tensor", fit="minmax")
    assert torch.allclose(step, positive.max() / 255)


def test_a_percentile_lets_outliers_be_clipped() -> None:
    """A thousand ordinary numbers and one of a million: with 99 percent the step is that of the ordinary ones."""
    values = torch.cat([torch.linspace(-1, 1, 1000), torch.tensor([1e6])])[:, None]
    step = calibrate(values, 8, signed=True, groups="tensor", fit="minmax", percentile=99)
    assert float(step) == pytest.approx(1 / 127, rel=0.02)
    assert float(calibrate(values, 8, signed=True, groups="tensor", fit="minmax")) == pytest.approx(1e6 / 127)


def test_groups_without_values() -> None:
    """A column of zeros gets the middle step of the others; where all are zero, or there are no rows, steps are one."""
    values = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    step = calibrate(values, 8, signed=True, groups="columns", fit="minmax")
    assert step.tolist() == pytest.approx([2 / 127, 2 / 127])
    assert calibrate(torch.zeros(3, 2), 4, signed=True, groups="columns").tolist() == [1, 1]
    assert calibrate(torch.zeros(0, 2), 4, signed=True, groups="columns").tolist() == [1, 1]


def test_each_group_may_have_a_width_of_its_own() -> None:
    """Steps of rows with more bits are finer, and one bit of a signed row, which has no level but zero, is no error."""
    rows = VALUES[:3].clone()
    step = calibrate(rows, torch.tensor([1.0, 4.0, 8.0]), signed=True, groups="rows", fit="minmax")
    assert torch.allclose(step, rows.abs().amax(1) / torch.tensor([1.0, 7.0, 127.0]))


def test_large_values_are_judged_by_some_of_their_entries() -> None:
    """Of more entries than are looked at, the step still reaches what all of them need."""
    values = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(1))
    step = calibrate(values, 4, signed=True, groups="columns")
    best = torch.stack([error(values, torch.full((2,), share), 4, "columns") for share in torch.linspace(0.1, 0.8, 60)])
    assert bool((error(values, step, 4, "columns") <= 1.05 * best.amin(0)).all())
