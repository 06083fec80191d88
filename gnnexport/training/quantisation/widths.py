"""How wide rows are on average, how many bytes they take, and which containers they are stored in."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnexport.program.containers import CONTAINERS, STEP_BYTES, container_of, index_bytes, row_bytes
from gnnexport.program.dialect.quantize import whole_bits
from gnnexport.program.program import Program
from gnnexport.program.quantised import Quantiser, quantisers

_HALFWAY = {1: 1.5, 2: 3.0, 4: 6.0}
"""From which width on the next larger container is nearer."""

_SPARE = 1 + 1e-9
"""Of a limit, for sums in floating point."""


@dataclass(frozen=True)
class Learned:
    """A quantiser whose rows have widths of their own, and how many rows take each entry.

    Args:
        quantiser: of the input of a product.
        counts: float32, one for each entry.
        containers: that its rows may be stored in, ascending.
    """

    quantiser: Quantiser
    counts: Tensor
    containers: tuple[int, ...]

    @property
    def rows(self) -> float:
        """Return how many rows there are."""
        return float(self.counts.double().sum())

    @property
    def note_bytes(self) -> float:
        """Return the bytes that steps, codes and anchors take."""
        return self.rows * STEP_BYTES + index_bytes(self.rows)

    def payload(self, bits: Tensor) -> Tensor:
        """Return the bytes that the rows of each entry take at some widths, float64."""
        return self.counts.double() * row_bytes(bits, self.quantiser.width)

    @property
    def bits(self) -> Tensor:
        """Return the widths as they are, between whole numbers too."""
        return self.quantiser.bits.detach()


def learned_widths(
    program: Program, counts: Mapping[str, Tensor] | None = None, containers: Sequence[int] = CONTAINERS
) -> list[Learned]:
    """List the quantisers of hidden features by row; the Program must be annotated.

    Args:
        program: with quantisers.
        counts: rows that take each entry, by name of the quantiser; one each where it is not told.
        containers: that rows may be stored in, ascending; one bit is for rows without sign, for with a sign there is
            nothing left but zero.
    """
    known = counts or {}
    found = []
    for item in quantisers(program):
        if has_learned_width(item):
            offered = tuple(width for width in containers if width > 1 or not item.signed)
            found.append(Learned(item, known.get(item.name, torch.ones_like(item.bits)), offered))
    return found


def has_learned_width(item: Quantiser) -> bool:
    """Tell the inputs of products, by row, that are no features as they were given."""
    return item.what == "input" and not item.raw and item.by != "columns"


def mean_bits(maps: Sequence[Learned], widths: Sequence[Tensor] | None = None) -> float:
    """Return the mean over maps of the mean over rows of bits, as the paper counts them.

    Args:
        maps: hidden features.
        widths: of each entry; by default those that are used.
    """
    return Target(bits=1.0).cost(maps, widths or [whole_bits(item.bits) for item in maps])


def feature_bytes(maps: Sequence[Learned]) -> float:
    """Return the bytes of all maps in their containers: numbers, steps, codes and anchors."""
    return sum(float(item.payload(container_of(whole_bits(item.bits))).sum()) + item.note_bytes for item in maps)


def average_bits(program: Program) -> tuple[float, float]:
    """Return the mean bits of hidden feature maps, and the bits stored for a number with all that belongs to it.

    The Program must be annotated, and its widths those of nodes.
    """
    maps = learned_widths(program)
    numbers = sum(item.rows * item.quantiser.width for item in maps)
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

    def costs(self, maps: Sequence[Learned], chosen: Sequence[Tensor]) -> list[Tensor]:
        """Return what each entry costs at some widths, float64, in the unit of `limit`."""
        if self.bits is None:
            return [item.payload(bits) for item, bits in zip(maps, chosen, strict=True)]
        return [bits.double() * item.counts.double() / max(item.rows, 1.0) / len(maps)
                for item, bits in zip(maps, chosen, strict=True)]  # fmt: skip

    def cost(self, maps: Sequence[Learned], chosen: Sequence[Tensor]) -> float:
        """Return what all entries cost at some widths."""
        return sum(float(item.sum()) for item in self.costs(maps, chosen))

    def limit(self, maps: Sequence[Learned]) -> float:
        """Return what all widths may cost together: bits on average, or bytes of numbers."""
        return self.bits if self.bits is not None else (self.bytes or 0) - sum(item.note_bytes for item in maps)

    def is_met(self, maps: Sequence[Learned], chosen: Sequence[Tensor], share: float = 1.0) -> bool:
        """Tell whether some widths cost no more than the limit, or a share of it."""
        return self.cost(maps, chosen) <= self.limit(maps) * share * _SPARE

    def least(self, maps: Sequence[Learned]) -> float:
        """Return what the smallest containers would cost, and what comes with them, in the unit of the target."""
        beside = 0 if self.bits is not None else sum(item.note_bytes for item in maps)
        return self.cost(maps, smallest_containers(maps)) + beside

    def excess(self, maps: Sequence[Learned]) -> float:
        """Return by what share the widths, each in its nearest container, exceed the limit; not above zero when met."""
        return self.cost(maps, nearest_containers(maps)) / self.limit(maps) - 1


def smallest_containers(maps: Sequence[Learned]) -> list[Tensor]:
    """Return the narrowest widths that may be stored."""
    return [torch.full_like(item.bits, float(item.containers[0])) for item in maps]


def nearest_containers(maps: Sequence[Learned], widths: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Return the container next to each width: those that are learned, unless others are given."""
    found = []
    for item, bits in zip(maps, [item.bits for item in maps] if widths is None else widths, strict=True):
        nearest = torch.full_like(bits, float(item.containers[0]))
        for smaller, larger in itertools.pairwise(item.containers):
            halfway = _HALFWAY[smaller] if larger == 2 * smaller else (smaller + larger) / 2
            nearest = torch.where(bits >= halfway, float(larger), nearest)
        found.append(nearest)
    return found


def snap(
    maps: Sequence[Learned], target: Target, widths: Sequence[Tensor] | None = None, share: float = 1.0
) -> list[Tensor]:
    """Return the container of each entry, near some widths, so that the target is met.

    All widths are shifted by one number before they go into the nearest container; it is the largest up to a half, at
    which the target is met. Of rows with the same width those with the smaller step are narrowed first.

    Args:
        maps: hidden features.
        target: to be met.
        widths: of each entry; by default those that are learned.
        share: of the target's limit that may be used.
    """
    given = [_untied(item, bits) for item, bits in zip(maps, widths or [item.bits for item in maps], strict=True)]

    def at(shift: float) -> list[Tensor]:
        return nearest_containers(maps, [bits + shift for bits in given])

    low, high = -9.0, 0.5
    if target.is_met(maps, at(high), share):
        return at(high)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if target.is_met(maps, at(middle), share) else (low, middle)
    return at(low)


def _untied(item: Learned, bits: Tensor) -> Tensor:
    rank = torch.argsort(torch.argsort(item.quantiser.step.detach(), stable=True), stable=True)
    return bits.clamp(1, 8) + 1e-2 * rank / max(len(bits), 1)
