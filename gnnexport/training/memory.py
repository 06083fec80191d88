"""How much memory there is to train in."""

from __future__ import annotations

from pathlib import Path

SHARE_OF_FREE = 0.5
"""Of the memory that is free, unless the user sets a limit."""

_SYSTEM = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def free_bytes(system: Path = _SYSTEM, group: Path = _GROUP) -> int | None:
    """Return the memory that this process can still get; `None` where the system does not tell.

    Args:
        system: Linux's file of memory counts.
        group: folder of the control group, which may allow less.
    """
    found = [value for value in (_available(system), _left_in(group)) if value is not None]
    return min(found, default=None)


def default_limit() -> int | None:
    """Return the memory that training may take when nobody sets a limit; `None` where the system does not tell."""
    free = free_bytes()
    return None if free is None else int(free * SHARE_OF_FREE)


def _available(path: Path) -> int | None:
    text = _read(path)
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    value = lines.get("MemAvailable", "").split()
    return int(value[0]) * 1024 if value else None


def _left_in(folder: Path) -> int | None:
    most, used = _read(folder / "memory.max").strip(), _read(folder / "memory.current").strip()
    return max(int(most) - int(used), 0) if most.isdigit() and used.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
