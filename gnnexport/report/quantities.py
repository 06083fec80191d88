"""Write quantities for people."""

from __future__ import annotations

NOT_MEASURED = "not measured"


def count(value: int | None) -> str:
    """Write a count with separators."""
    return NOT_MEASURED if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Write bytes with three digits or so."""
    if value is None:
        return NOT_MEASURED
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def milliseconds(value: float | None) -> str:
    """Write a time in milliseconds with three digits."""
    return NOT_MEASURED if value is None else f"{value:,.0f} ms" if value >= 1000 else f"{value:.3g} ms"


def share(value: float | None) -> str:
    """Write a share as a percentage."""
    return NOT_MEASURED if value is None else f"{value * 100:.2f} %"


def throughput(value: float | None) -> str:
    """Write nodes per second with three digits or so."""
    if value is None:
        return NOT_MEASURED
    for unit in ("", " k", " M"):
        if value < 1000:
            return f"{value:.3g}{unit} nodes/s"
        value /= 1000
    return f"{value:.3g} G nodes/s"
