"""Which entries of a weight may differ from zero together, and the masks that leave those of the highest scores.

Scores are squares of magnitudes, or anything that is larger for what matters more. Masks are chosen in units: single
entries, or whole blocks. Of equal scores the first in place stays, so that counts are exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Axis = Literal["column", "row"]

_SIZES = re.compile(r"^(?P<first>[1-9]\d{0,3})(?P<sign>[:x])(?P<second>[1-9]\d{0,3})$")


@dataclass(frozen=True)
class Pattern:
    """What the entries of a weight [outputs, inputs] that differ from zero look like.

    Args:
        block: outputs and inputs of a block that stays or goes as a whole.
        group: inputs of which no more than `most` stay, for each output; 0 where there is no such limit.
        most: see `group`.
    """

    block: tuple[int, int] = (1, 1)
    group: int = 0
    most: int = 0

    def can_leave_out(self, shape: tuple[int, int]) -> bool:
        """Tell whether any entry of a weight [outputs, inputs] can go: one block stays, and the best of each group."""
        if self.group:
            return shape[1] > self.most
        return shape[0] > self.block[0] or shape[1] > self.block[1]

    def __str__(self) -> str:
        if self.group:
            return f"{self.most}:{self.group}"
        return "unstructured" if self.block == (1, 1) else f"{self.block[0]}x{self.block[1]}"


UNSTRUCTURED = Pattern()


def parse_pattern(text: str) -> Pattern | Axis:
    """Read `unstructured`, `column`, `row`, `2:4` or `16x1`.

    Raises:
        ValueError: it is none of these.
    """
    if text in ("column", "row"):
        return "column" if text == "column" else "row"
    if text == "unstructured":
        return UNSTRUCTURED
    found = _SIZES.match(text)
    if found is None:
        raise ValueError(
            f"'{text}' is no pattern. Write unstructured, 2:4, 16x1 (outputs by inputs of a block), column or row"
        )
    first, second = int(found["first"]), int(found["second"])
    if found["sign"] == "x":
        return Pattern(block=(first, second))
    if first >= second:
        raise ValueError(f"'{text}' leaves every entry. The first number must be the smaller one, as in 2:4")
    return Pattern(group=second, most=first)


def mask_of(scores: Tensor, pattern: Pattern, count: int) -> Tensor:
    """Return which entries of one weight stay, bool [outputs, inputs].

    Args:
        scores: [outputs, inputs].
        pattern: of what stays; a limit for groups alone decides how many entries that are.
        count: entries to stay; of blocks as many as are not more than this, but one at least.
    """
    if pattern.group:
        return _best_of_groups(scores, pattern)
    return masks_of([scores], pattern, count)[0]


def masks_of(scores: Sequence[Tensor], pattern: Pattern, count: int) -> list[Tensor]:
    """Return which entries of several weights stay, chosen among all of them; each weight keeps one unit at least."""
    if pattern.group:
        return [_best_of_groups(item, pattern) for item in scores]
    values, sizes = zip(*(_units(item, pattern.block) for item in scores), strict=True)
    firsts = [torch.zeros_like(item, dtype=torch.bool) for item in values]
    for value, first in zip(values, firsts, strict=True):
        first[int(value.argmax())] = True
    first, size = torch.cat(firsts), torch.cat(sizes)
    # What each weight keeps in any case comes first.
    order = torch.argsort(torch.cat(values), descending=True, stable=True)
    order = torch.cat([order[first[order]], order[~first[order]]])
    within = size[order].cumsum(0) <= count
    chosen = torch.zeros_like(first)
    chosen[order[within]] = True
    parts = (chosen | first).split([len(item) for item in values])
    return [_spread(part, pattern.block, item) for part, item in zip(parts, scores, strict=True)]


def mask_above(scores: Tensor, pattern: Pattern, least: float) -> Tensor:
    """Return which entries of one weight score no less than a number, bool [outputs, inputs], and the best in any case.

    Args:
        scores: [outputs, inputs].
        pattern: blocks stay or go by their mean score; no groups.
        least: score of what stays.
    """
    values, _ = _units(scores, pattern.block)
    chosen = ~(values < least)
    chosen[int(values.argmax())] = True
    return _spread(chosen, pattern.block, scores)


def best_units(scores: Tensor, pattern: Pattern, units: int) -> Tensor:
    """Return the mask of so many units of the highest scores, bool [outputs, inputs]; of groups the best of each."""
    if pattern.group:
        return _best_of_groups(scores, pattern)
    values, _ = _units(scores, pattern.block)
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[torch.argsort(values, descending=True, stable=True)[:units]] = True
    return _spread(chosen, pattern.block, scores)


def units_of(mask: Tensor, pattern: Pattern) -> int:
    """Return how many units of a mask stay."""
    return int((_units(mask.float(), pattern.block)[0] > 0).sum())


def _units(scores: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the mean score and the number of entries of each block, row by row; blocks at the edge are smaller."""
    if block == (1, 1):
        flat = scores.reshape(-1)
        return flat.double(), torch.ones(len(flat), dtype=torch.int64)
    sums, sizes = (_sums(item, block) for item in (scores.double(), torch.ones_like(scores, dtype=torch.float64)))
    return sums / sizes, sizes.long()


def _sums(values: Tensor, block: tuple[int, int]) -> Tensor:
    height, width = block
    rows, columns = values.shape
    padded = pad(values, (0, -columns % width, 0, -rows % height))
    return padded.reshape(math.ceil(rows / height), height, math.ceil(columns / width), width).sum((1, 3)).reshape(-1)


def _spread(chosen: Tensor, block: tuple[int, int], like: Tensor) -> Tensor:
    """Return the entries of chosen blocks."""
    rows, columns = like.shape
    height, width = block
    table = chosen.reshape(math.ceil(rows / height), math.ceil(columns / width))
    return table.repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :columns].contiguous()


def _best_of_groups(scores: Tensor, pattern: Pattern) -> Tensor:
    """Return the best entries of every group along the inputs; the last group may be smaller."""
    rows, columns = scores.shape
    padded = pad(scores.double(), (0, -columns % pattern.group), value=-math.inf)
    table = padded.reshape(rows, -1, pattern.group)
    best = torch.argsort(table, dim=-1, descending=True, stable=True)[..., : pattern.most]
    mask = torch.zeros_like(table, dtype=torch.bool).scatter_(-1, best, True)
    return mask.reshape(rows, -1)[:, :columns].contiguous()
