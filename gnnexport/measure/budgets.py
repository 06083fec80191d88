"""Budgets and quantities as people write them: `0.5pp`, `2x-exported`, `10m`, `64MB`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from gnnexport.errors import SpecError
from gnnexport.measure.metrics import find

_NUMBER = r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
_BUDGET = re.compile(_NUMBER + r"\s*(?P<unit>pp|%)?", re.IGNORECASE)
_SPEEDUP = re.compile(_NUMBER + r"\s*x?(?:-(?P<against>baseline|exported))?", re.IGNORECASE)
_DURATION = re.compile(_NUMBER + r"\s*(?P<unit>ms|s|m|h)?", re.IGNORECASE)
_BYTES = re.compile(_NUMBER + r"\s*(?P<unit>[kmgt]?i?b?)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


DEFAULT_MAX_DROP = "0.5pp"
"""The budget of a metric that is a share when nobody sets one."""

DEFAULT_MAX_RISE = "2%"
"""The budget of an error when nobody sets one."""


@dataclass(frozen=True)
class Budget:
    """How much worse a metric may become.

    Args:
        value: the largest drop, as `metrics.drop` gives it: 0.005 for `0.5pp`, 0.02 for `2%`.
        unit: `pp` for shares, `%` for errors.
    """

    value: float
    unit: Literal["pp", "%"]

    def __str__(self) -> str:
        return f"{self.value * 100:g}{self.unit}"


@dataclass(frozen=True)
class SpeedupBudget:
    """How many times faster the result has to be, and than what.

    Args:
        value: ratio of medians.
        against: `baseline` is the original in PyTorch, `exported` the uncompressed model on the same target.
    """

    value: float
    against: Literal["baseline", "exported"] = "baseline"

    def __str__(self) -> str:
        return f"{self.value:g}x" + ("-exported" if self.against == "exported" else "")


def parse_budget(text: str, metric: str | None = None) -> Budget:
    """Parse the largest drop allowed.

    Args:
        text: `0.5pp` or `2%`.
        metric: when given, the unit has to suit it.

    Raises:
        SpecError: not such a text, negative, or a unit that does not suit the metric.
    """
    match = _BUDGET.fullmatch(text.strip())
    unit = (match["unit"] or "").lower() if match else ""
    if match is None or not unit:
        what = f"'{text}' is not a budget" if match is None else f"'{text}' has no unit"
        raise SpecError.at("--max-drop", what, "Write 0.5pp for a share such as accuracy, 2% for an error such as MAE")
    value = _positive(match["number"], "--max-drop", text, zero=True) / 100
    if metric is not None and find(metric).is_share != (unit == "pp"):
        right = "pp" if find(metric).is_share else "%"
        mend = f"Write {match['number']}{right}"
        raise SpecError.at("--max-drop", f"'{text}' does not suit {metric}, which is judged in {right}", mend)
    return Budget(value, "pp" if unit == "pp" else "%")


def default_budget(metric: str) -> str:
    """Return the largest drop of a metric when nobody sets one, as people write it."""
    return DEFAULT_MAX_DROP if find(metric).is_share else DEFAULT_MAX_RISE


def parse_speedup(text: str) -> SpeedupBudget:
    """Parse the smallest speedup allowed: `2`, `2x` or `2x-exported`.

    Raises:
        SpecError: not such a text, or not positive.
    """
    match = _SPEEDUP.fullmatch(text.strip())
    if match is None:
        mend = "Write 2 (against the original in PyTorch) or 2x-exported (against the uncompressed export)"
        raise SpecError.at("--min-speedup", f"'{text}' is not a speedup", mend)
    value = _positive(match["number"], "--min-speedup", text)
    exported = (match["against"] or "").lower() == "exported"
    return SpeedupBudget(value, "exported" if exported else "baseline")


def parse_duration(text: str) -> float:
    """Parse a duration such as `10m`, `90s`, `1.5h` or `90` into seconds.

    Raises:
        SpecError: not such a text, or not positive.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise SpecError.at("--time-budget", f"'{text}' is not a duration", "Write for example 90s, 10m or 1h")
    return _positive(match["number"], "--time-budget", text) * _SECONDS[(match["unit"] or "s").lower()]


def parse_bytes(text: str, where: str = "--embed-data", *, zero: bool = True) -> int:
    """Parse a size such as `64MB`, `1GiB` or `0` into bytes; `k`, `M`, `G` are powers of 1000, `Ki` … of 1024.

    Args:
        text: as the user wrote it.
        where: names the option in messages.
        zero: whether that is a size, too.

    Raises:
        SpecError: not such a text, or negative.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise SpecError.at(where, f"'{text}' is not a size", "Write for example 64MB" + (" or 0" if zero else ""))
    unit = match["unit"].lower().rstrip("b")
    step = 1024 if unit.endswith("i") else 1000
    size = _positive(match["number"], where, text, zero=zero) * step ** _POWERS[unit.rstrip("i")]
    return int(_positive(str(size), where, text, zero=zero))


def _positive(number: str, where: str, text: str, *, zero: bool = False) -> float:
    value = float(number)
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        wanted = "zero or more" if zero else "more than zero"
        raise SpecError.at(where, f"'{text}' is out of range", f"Give a number that is {wanted}")
    return value
