from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gnnexport.training.sparsity.densities import erk, left_of, uniform
from gnnexport.training.sparsity.growing import dropped, regrown
from gnnexport.training.sparsity.patterns import UNSTRUCTURED, Pattern, mask_of, masks_of, parse_pattern, units_of
from gnnexport.training.sparsity.zeros import clear

SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20))
PATTERNS = [UNSTRUCTURED, Pattern(block=(4, 1)), Pattern(block=(2, 3)), Pattern(group=4, most=2)]


def numbers(shape: tuple[int, int], seed: int = 0, values: int | None = None) -> Tensor:
    """Return scores, with ties where there are few values."""
    generator = torch.Generator().manual_seed(seed)
    if values is not None:
        return torch.randint(0, values, shape, generator=generator).double()
    return torch.rand(shape, generator=generator, dtype=torch.float64)


@given(SHAPES, st.integers(0, 5), st.floats(0.01, 0.99))
def test_so_many_entries_stay_as_are_asked_for(shape: tuple[int, int], seed: int, sparsity: float) -> None:
    """Ties and all: the count is exact, and nothing that goes scores more than anything that stays."""
    count = left_of(shape[0] * shape[1], sparsity)
    for values in (None, 2):
        scores = numbers(shape, seed, values)
        mask = mask_of(scores, UNSTRUCTURED, count)
        assert int(mask.sum()) == count
        if not bool(mask.all()):
            assert float(scores[mask].min()) >= float(scores[~mask].max())


def test_of_equal_scores_the_first_stay() -> None:
    """The choice does not hang on how a sort treats ties."""
    assert mask_of(torch.ones(2, 3), UNSTRUCTURED, 4).tolist() == [[True, True, True], [True, False, False]]


@given(SHAPES, st.integers(0, 5), st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 8)]))
def test_of_every_group_no_more_stay_than_allowed(shape: tuple[int, int], seed: int, of: tuple[int, int]) -> None:
    """Each group of inputs keeps its best, a smaller last one no more than it has."""
    most, group = of
    scores = numbers(shape, seed)
    mask = mask_of(scores, Pattern(group=group, most=most), 0)
    for row, kept in zip(scores.tolist(), mask.tolist(), strict=True):
        for start in range(0, shape[1], group):
            part = list(zip(row[start : start + group], kept[start : start + group], strict=True))
            stay = {score for score, stays in part if stays}
            assert stay == set(sorted((score for score, _ in part), reverse=True)[:most])


@given(SHAPES, st.integers(0, 5), st.floats(0.01, 0.99))
def test_blocks_stay_or_go_as_a_whole(shape: tuple[int, int], seed: int, sparsity: float) -> None:
    """Those at the edge are smaller; no more entries stay than asked for, unless one block alone has more."""
    count = left_of(shape[0] * shape[1], sparsity)
    mask = mask_of(numbers(shape, seed), Pattern(block=(4, 3)), count)
    sizes = []
    for row, column in itertools.product(range(0, shape[0], 4), range(0, shape[1], 3)):
        block = mask[row : row + 4, column : column + 3]
        assert bool(block.all()) or not bool(block.any())
        sizes += [block.numel()] if bool(block.any()) else []
    assert len(sizes) == units_of(mask, Pattern(block=(4, 3))) >= 1
    assert sum(sizes) <= count or len(sizes) == 1


@given(st.lists(SHAPES, min_size=1, max_size=4), st.floats(0.01, 0.99))
def test_chosen_among_all_weights(shapes: list[tuple[int, int]], sparsity: float) -> None:
    """The sum is exact; a weight whose entries are all small keeps one."""
    total = left_of(sum(map(math.prod, shapes)), sparsity)
    masks = masks_of([numbers(shape, place) * 10.0**-place for place, shape in enumerate(shapes)], UNSTRUCTURED, total)
    assert sum(int(mask.sum()) for mask in masks) == max(total, len(shapes))
    assert all(bool(mask.any()) for mask in masks)


@given(st.lists(SHAPES, min_size=1, max_size=5), st.floats(0.01, 0.99))
def test_erk_shares_out_what_the_model_keeps(shapes: list[tuple[int, int]], sparsity: float) -> None:
    """The sum is that of the whole model, no weight has more than its entries, and all others are in proportion."""
    counts = erk(shapes, sparsity)
    total = left_of(sum(map(math.prod, shapes)), sparsity)
    assert total <= sum(counts) <= total + len(shapes)
    assert all(1 <= count <= math.prod(shape) for count, shape in zip(counts, shapes, strict=True))
    open_ones = [(count, sum(shape)) for count, shape in zip(counts, shapes, strict=True) if count < math.prod(shape)]
    for (one, width), (other, other_width) in itertools.combinations(open_ones, 2):
        assert abs(one / width - other / other_width) <= 1 / width + 1 / other_width
    assert uniform(shapes, sparsity) == [left_of(math.prod(shape), sparsity) for shape in shapes]


@given(SHAPES, st.integers(0, 5), st.sampled_from(PATTERNS), st.floats(0.01, 1))
def test_what_is_dropped_grows_elsewhere(shape: tuple[int, int], seed: int, pattern: Pattern, share: float) -> None:
    """The smallest active units go, as many of the most wanted come, and the number of units is what it was."""
    size, wanted = numbers(shape, seed), numbers(shape, seed + 10)
    before = mask_of(numbers(shape, seed + 20), pattern, left_of(math.prod(shape), 0.5))
    units = Pattern(block=pattern.block)
    kept = dropped(size, before, pattern, share)
    active = units_of(before, units)
    assert units_of(kept, units) == active - math.ceil(share * active)
    assert not bool((kept & ~before).any())
    if pattern is UNSTRUCTURED and bool(kept.any()):
        assert float(size[kept].min()) >= float(size[before & ~kept].max())
    after = regrown(kept, before, wanted, pattern)
    assert bool((kept & ~after).any()) is False
    assert units_of(after, units) == active
    if pattern is UNSTRUCTURED and not bool(after.all()):
        assert float(wanted[after & ~kept].min()) >= float(wanted[~after].max())


@pytest.mark.parametrize("text", ["unstructured", "2:4", "16x1", "1x16"])
def test_a_pattern_reads_as_it_is_written(text: str) -> None:
    """Each pattern of entries prints as it is given."""
    assert str(parse_pattern(text)) == text


@pytest.mark.parametrize("text", ["4:2", "2:2", "0x4", "2x", "blocks"])
def test_other_patterns_are_refused(text: str) -> None:
    """What would leave everything, or has no size, is no pattern."""
    with pytest.raises(ValueError, match=f"'{text}'"):
        parse_pattern(text)


def test_weights_and_both_moments_are_cleared() -> None:
    """After a step of Adam all three are zero where they have to be, and nowhere else."""
    value = nn.Parameter(torch.ones(2, 3))
    optimiser = torch.optim.Adam([value], lr=0.1, weight_decay=0.1)
    zeros = torch.tensor([[True, False, True], [False, False, True]])
    for _ in range(3):
        optimiser.zero_grad()
        (value * torch.arange(1.0, 7.0).view(2, 3)).sum().backward()
        optimiser.step()
        clear(value, zeros, optimiser)
        for tensor in (value.detach(), optimiser.state[value]["exp_avg"], optimiser.state[value]["exp_avg_sq"]):
            assert torch.equal(tensor == 0, zeros)
