"""Recommend how weights are to be made sparse, from timings of the products that a model consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gnnexport.measure.amdahl import WORTH, ProductShape, Shares, at_most

UNSTRUCTURED, BLOCKS = "unstructured", "16x1"
"""Patterns that are tried: zeros anywhere, and those of sixteen outputs at once."""

STEPS = (0.5, 0.75, 0.9, 0.95, 0.98)
"""Shares of zeros that are tried beyond the one asked for."""

MOST_STEPS = 2
MOST_NAMED = 3
"""Products whose speeds are listed one by one."""


@dataclass(frozen=True)
class Timed:
    """What zeros do to a product.

    Args:
        product: whose weights were given zeros at random.
        dense_ms: that one takes with all numbers multiplied.
        speed: times as fast with the zeros skipped.
    """

    product: ProductShape
    dense_ms: float
    speed: float


@dataclass(frozen=True)
class Setting:
    """What weights may be asked to look like.

    Args:
        pattern: as `sparsify-weights` has it.
        sparsity: share of zeros.
    """

    pattern: str
    sparsity: float

    def __str__(self) -> str:
        """Write the options; a pattern of groups, such as 2:4, says the sparsity itself."""
        if self._grouped:
            return f"pattern={self.pattern}"
        options = f"sparsity={self.sparsity:g}"
        return options if self.pattern == UNSTRUCTURED else f"{options},pattern={self.pattern}"

    @property
    def _grouped(self) -> bool:
        return ":" in self.pattern

    def stronger(self) -> list[Setting]:
        """Return what is worth a try where this does not pay, the mildest first."""
        anywhere = UNSTRUCTURED if self._grouped else self.pattern
        more = [share for share in STEPS if share > self.sparsity][:MOST_STEPS]
        found = [
            Setting(self.pattern, self.sparsity),
            Setting(BLOCKS, self.sparsity),
            *(Setting(pattern, share) for share in more for pattern in (anywhere, BLOCKS)),
        ]
        return list(dict.fromkeys(found))[1:]


Speeds = Callable[[Sequence[ProductShape], Setting], Sequence[Timed]]
"""Times products with zeros put into their weights; gives nothing once the time for that is spent."""


def gain(shares: Shares, timed: Sequence[Timed]) -> float:
    """Return how many times faster a model gets, each product by what was timed for it; slower ones stay dense.

    Products that were not timed count by their multiply-accumulates, and as no faster.

    Args:
        shares: of the model.
        timed: some of its products, one at least.
    """
    dense = sum(item.dense_ms * item.product.count for item in timed)
    known = {item.product for item in timed}
    macs = sum(item.macs for item in known)
    rest = sum(item.macs for item in shares.products if item not in known) * dense / macs
    left = sum(item.dense_ms * item.product.count * min(1.0, 1 / item.speed) for item in timed)
    return at_most(shares.linear, min(1.0, (left + rest) / (dense + rest)))


def recommend(shares: Shares, asked: Setting, speeds: Speeds) -> list[str]:
    """Time products with zeros as asked, then with what skips more, until one pays; say what was found.

    Args:
        shares: of the model as it is.
        asked: for.
        speeds: times products.

    Returns:
        One line with the timings, where there are any, and one with the recommendation.
    """
    without = at_most(shares.linear, 0.0)
    if without < WORTH:
        return [
            "recommendation: prune-channels or sparsify-edges, which leave aggregation less to do: without any linear "
            f"layer the model would be {without:.2f} times faster"
        ]
    if not shares.products:
        return [
            "recommendation: prune-channels: nothing that runs this model here skips zeros; they make files smaller"
        ]
    told, best = [], 1.0
    for setting in (asked, *asked.stronger()):
        timed = speeds(shares.products, setting)
        if not timed:
            break
        found = gain(shares, timed)
        told.append(_told(setting, timed, found))
        best = max(best, found)
        if found > WORTH:
            wanted = "as asked" if setting == asked else f"sparsify-weights{{{setting}}}"
            return [_listed(told), f"recommendation: {wanted}, which makes the model about {found:.2f} times faster"]
    if not told:
        return []
    end = f"these zeros make the model {best:.2f} times faster at most, and its files smaller"
    return [_listed(told), f"recommendation: prune-channels for speed: {end}"]


def _listed(told: Sequence[str]) -> str:
    return f"products timed here with zeros at random, times as fast as with all numbers: {'; '.join(told)}"


def _told(setting: Setting, timed: Sequence[Timed], found: float) -> str:
    heaviest = sorted(timed, key=lambda item: item.dense_ms * item.product.count, reverse=True)[:MOST_NAMED]
    each = ", ".join(f"{item.product} {item.speed:.2f}" for item in heaviest)
    return f"{setting}: {each}, the model {found:.2f}"
