"""Predict what a pass can gain at most in time, from the shares that operators have of one inference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "aggregation"]

WORTH = 1.1
"""Times faster below which a pass is said to pay hardly."""

_TAKE: dict[Kind, str] = {"linear": "linear layers take", "aggregation": "aggregation takes"}


@dataclass(frozen=True)
class ProductShape:
    """Products of one shape with weights, as a lowered model has them.

    Args:
        rows: that are multiplied.
        inputs: columns of a row.
        outputs: columns of the result.
        count: how many such products there are.
        by_kernels: our kernels multiply, and not the engine.
    """

    rows: int
    inputs: int
    outputs: int
    count: int = 1
    by_kernels: bool = True

    def __str__(self) -> str:
        """Say how many rows of what width become what."""
        times = f"{self.count} × " if self.count > 1 else ""
        return f"{times}{self.rows}×{self.inputs}→{self.outputs}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all of them."""
        return self.count * self.rows * self.inputs * self.outputs


@dataclass(frozen=True)
class Shares:
    """How the time of one inference divides; the three shares sum to one.

    Args:
        linear: of products with weights.
        aggregation: of sums over edges and of what gathers rows for them.
        other: of all else.
        latency_ms: of all operators one after the other.
        engine: that ran them.
        divided: share of operators that do both at once; it is in the other shares, in proportion to what the two take
            apart.
        products: with weights whose zeros a kernel here may skip.
    """

    linear: float
    aggregation: float
    other: float
    latency_ms: float
    engine: str
    divided: float = 0.0
    products: tuple[ProductShape, ...] = ()

    def __str__(self) -> str:
        """Say where the time goes."""
        parts = ", ".join(
            f"{name} {100 * share:.0f} %"
            for name, share in (
                ("linear layers", self.linear),
                ("aggregation", self.aggregation),
                ("other", self.other),
            )
        )
        both = f"; {100 * self.divided:.0f} % do both at once, divided as they run apart" if self.divided else ""
        return f"of {self.latency_ms:.3g} ms on {self.engine}: {parts}{both}"


def at_most(share: float, left: float) -> float:
    """Return how many times faster everything gets where a share of the time shrinks to what is left of it.

    Amdahl's law: the rest takes as long as before.

    Args:
        share: of the time, 0 to 1.
        left: of the work in that share, 0 to 1.

    Raises:
        ValueError: one of them is no share.
    """
    for name, value in (("share", share), ("left", left)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], and is {value}")
    remains = 1 - share + share * left
    return 1 / remains if remains > 0 else math.inf


def prediction(shares: Shares, left: Mapping[Kind, float]) -> str:
    """Say what a pass can gain at most that leaves so much of some work, and where that is hardly anything.

    Args:
        shares: of the model before the pass.
        left: of the work of each kind of operators that shrinks, 0 to 1.
    """
    of = {"linear": shares.linear, "aggregation": shares.aggregation}
    shrinking = min(1.0, sum(of[kind] for kind in left))
    gain = at_most(shrinking, sum(of[kind] * part for kind, part in left.items()) / shrinking if shrinking else 1.0)
    times = "without bound" if math.isinf(gain) else f"at most {gain:.2f} times"
    time = f" of {shares.latency_ms:.3g} ms on {shares.engine}"
    why = [
        f"{_TAKE[kind]} {100 * of[kind]:.0f} %{'' if place else time}, and {100 * part:.3g} % of that work is left"
        for place, (kind, part) in enumerate(left.items())
    ]
    hardly = f"; below {WORTH} times it will hardly pay in time" if gain < WORTH else ""
    return f"can be {times} faster: {'; '.join(why)}{hardly}"
