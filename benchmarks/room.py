"""The memory of a process and of the machine, as Linux keeps account of it. Free of torch."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

PROCESS = Path("/proc/self")
MACHINE = Path("/proc/meminfo")
RESET_PEAK = "5"
"""What `clear_refs` takes for: the largest resident memory counts from here."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Settings of the C library's `mallopt`."""

_NEVER = 2**31 - 1


class LeftOut(Exception):
    """Why a contender is not measured here."""


def resident_bytes(field: str, process: Path = PROCESS) -> int:
    """Return a figure of a process: `VmRSS`, its resident memory, or `VmHWM`, the most that it ever was."""
    return _field(process / "status", field)


def start_peak(process: Path = PROCESS) -> int:
    """Let the peak of a process count from here, and return it; where that is not allowed, it counts from its start."""
    with suppress(OSError):
        (process / "clear_refs").write_text(RESET_PEAK)
    return resident_bytes("VmHWM", process)


def keep_freed() -> bool:
    """Let freed memory stay with the process, as engines keep theirs, and tell whether the C library does so.

    Else every large result is made of pages that the system hands out anew and fills with zeros.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


def demand(needed_bytes: int, what: str, machine: Path = MACHINE) -> None:
    """Hold what a contender will take against the memory that is free: others may run on this machine.

    Raises:
        LeftOut: there is less.
    """
    free = _field(machine, "MemAvailable")
    if needed_bytes > free:
        raise LeftOut(f"{what} would take {needed_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")


def _field(file: Path, name: str) -> int:
    lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
