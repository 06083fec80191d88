"""How wide rows are on average, how many bytes they take, and which containers they are stored in."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnexport.program.dialect.quantize import whole_bits
from gnnexport.program.program import Program
from gnnexport.program.quantised import Quantiser, quantisers

STEP_BITS = 32
"""Of the step of a row."""
CODE_BITS = 2
"""Tell the container of a row."""
ANCHOR_ROWS, ANCHOR_BITS = 64, 32
"""One in so many rows has the place of its bytes written down."""

_HALFWAY = {1: 1.5, 2: 3.0, 4: 6.0}
"""From which width on the next larger container is nearer."""


@dataclass(frozen=True)
class Learned:
    """A quantiser whose rows have widths of their own, and how many rows take each entry.

    Args:
        quantiser: of the input of a product.
        counts: float32, one for each entry.
    """

    quantiser: Quantiser
    counts: Tensor

    @property
    def weights(self) -> Tensor:
        """Return how many numbers each entry is the width of."""
        return self.counts * self.quantiser.width

    @property
    def metadata_bits(self) -> float:
        """Return the bits that steps, codes and anchors take."""
        rows = float(self.counts.sum())
        return rows * (STEP_BITS + CODE_BITS + ANCHOR_BITS / ANCHOR_ROWS)


def learned_widths(program: Program, counts: Mapping[str, Tensor] | None = None) -> list[Learned]:
    """List the quantisers of hidden features by row; the Program must be annotated.

    Args:
        program: with quantisers.
        counts: rows that take each entry, by name of the quantiser; one each where it is not told.
    """
    known = counts or {}
    found = []
    for item in quantisers(program):
        if item.what == "input" and not item.raw and item.by != "columns":
            found.append(Learned(item, known.get(item.name, torch.ones_like(item.bits))))
    return found


def mean_bits(maps: Sequence[Learned], *, whole: bool = True) -> float:
    """Return the mean over maps of the mean over rows of bits, as the paper counts them.

    Args:
        maps: hidden features.
        whole: count the widths that are used, not those between whole numbers.
    """
    means = []
    for item in maps:
        bits = item.quantiser.bits.detach()
        bits = whole_bits(bits) if whole else bits
        means.append(float((bits * item.counts).sum() / item.counts.sum().clamp(min=1)))
    return sum(means) / len(means) if means else 0.0


def feature_bytes(maps: Sequence[Learned]) -> float:
    """Return the bytes of all maps: numbers, steps, codes and anchors."""
    return sum(float((whole_bits(item.quantiser.bits.detach()) * item.weights).sum()) + item.metadata_bits
               for item in maps) / 8  # fmt: skip


def average_bits(program: Program) -> tuple[float, float]:
    """Return the mean bits of hidden feature maps, and the bits stored for a number with all that belongs to it.

    The Program must be annotated, and its widths those of nodes.
    """
    maps = learned_widths(program)
    numbers = sum(float(item.weights.sum()) for item in maps)
    return mean_bits(maps), 8 * feature_bytes(maps) / max(numbers, 1.0)


@dataclass(frozen=True)
class Target:
    """What widths have to come down to: bits on average, or bytes.

    Args:
        bits: mean over hidden feature maps.
        bytes: of all maps, with steps, codes and anchors.
    """

    bits: float | None = None
    bytes: float | None = None

    def excess(self, maps: Sequence[Learned]) -> Tensor:
        """Return by what share the widths, between whole numbers too, exceed the target; not above zero when met."""
        if self.bits is not None:
            means = [(item.quantiser.bits * item.counts).sum() / item.counts.sum().clamp(min=1) for item in maps]
            return torch.stack(means).mean() / self.bits - 1
        payload = torch.stack([(item.quantiser.bits * item.weights).sum() for item in maps]).sum()
        return payload / max(self._payload(maps), 1.0) - 1

    def is_met(self, maps: Sequence[Learned]) -> bool:
        """Tell whether the widths that are used meet the target."""
        if self.bits is not None:
            return mean_bits(maps) <= self.bits + 1e-6
        return feature_bytes(maps) <= (self.bytes or 0) + 1e-6

    def is_possible(self, maps: Sequence[Learned], smallest: int) -> bool:
        """Tell whether one container for all rows would meet the target."""
        if self.bits is not None:
            return self.bits >= smallest
        return self._payload(maps) >= smallest * sum(float(item.weights.sum()) for item in maps)

    def _payload(self, maps: Sequence[Learned]) -> float:
        """Return the bits that are left for numbers."""
        return 8 * (self.bytes or 0) - sum(item.metadata_bits for item in maps)

    def shares(self, maps: Sequence[Learned]) -> list[Tensor]:
        """Return what one more bit of each entry costs."""
        if self.bits is not None:
            return [item.counts / item.counts.sum().clamp(min=1) / len(maps) for item in maps]
        return [item.weights for item in maps]

    def limit(self, maps: Sequence[Learned]) -> float:
        """Return what all widths may cost together, in the unit of `shares`."""
        return self.bits if self.bits is not None else self._payload(maps)


def snap(maps: Sequence[Learned], target: Target, containers: Sequence[int]) -> list[Tensor]:
    """Return the container of each entry, near the widths learned, so that the target is met.

    All widths are shifted by one number before they go into the nearest container; it is the largest up to a half, at
    which the target is met. Of rows with the same width those with the smaller step are narrowed first.

    Args:
        maps: with the widths learned.
        target: to be met.
        containers: ascending.
    """
    shares, limit = target.shares(maps), target.limit(maps)
    widths = [_untied(item) for item in maps]

    def at(shift: float) -> list[Tensor]:
        return [_container(bits + shift, containers) for bits in widths]

    def cost(chosen: Sequence[Tensor]) -> float:
        return sum(float((share.double() * bits).sum()) for share, bits in zip(shares, chosen, strict=True))

    low, high = -9.0, 0.5
    if cost(at(high)) <= limit * (1 + 1e-9):
        return at(high)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(at(middle)) <= limit * (1 + 1e-9) else (low, middle)
    return at(low)


def _untied(item: Learned) -> Tensor:
    bits = item.quantiser.bits.detach()
    rank = torch.argsort(torch.argsort(item.quantiser.step.detach(), stable=True), stable=True)
    return bits.clamp(1, 8) + 1e-2 * rank / max(len(bits), 1)


def _container(bits: Tensor, containers: Sequence[int]) -> Tensor:
    found = torch.full_like(bits, float(containers[0]))
    for smaller, larger in itertools.pairwise(containers):
        halfway = _HALFWAY[smaller] if larger == 2 * smaller else (smaller + larger) / 2
        found = torch.where(bits >= halfway, float(larger), found)
    return found
