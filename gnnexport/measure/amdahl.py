"""Predict what a pass can gain at most in time, from the shares that operators have of one inference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "aggregation"]

WORTH = 1.1
"""Times faster below which a pass is said to pay hardly."""

_TAKE: dict[Kind, str] = {"linear": "linear layers take", "aggregation": "aggregation takes"}


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
    """

    linear: float
    aggregation: float
    other: float
    latency_ms: float
    engine: str
    divided: float = 0.0

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


def prediction(shares: Shares, kind: Kind, left: float) -> str:
    """Say what a pass can gain at most that leaves so much of the work of a kind, and where that is hardly anything.

    Args:
        shares: of the model before the pass.
        kind: of operators whose work shrinks.
        left: of that work, 0 to 1.
    """
    share = shares.linear if kind == "linear" else shares.aggregation
    gain = at_most(share, left)
    times = "without bound" if math.isinf(gain) else f"at most {gain:.2f} times"
    why = f"{_TAKE[kind]} {100 * share:.0f} % of {shares.latency_ms:.3g} ms on {shares.engine}"
    hardly = f"; below {WORTH} times it will hardly pay in time" if gain < WORTH else ""
    return f"can be {times} faster: {why}, and {100 * left:.3g} % of that work is left{hardly}"
