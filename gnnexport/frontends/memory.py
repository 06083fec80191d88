"""What a file may ask for in memory: no more than this machine has, whatever sizes the file claims."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from gnnexport.errors import DataError

CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")
GIB = 2**30


@functools.cache
def memory_bytes() -> int:
    """Return the memory of this machine, or of the container that we run in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = CONTROL_GROUP.read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


MEND = "Reduce the features or the graphs, or copy it again"


def require_memory(size_bytes: int, where: str, what: str, mend: str = MEND) -> None:
    """Refuse an array that would take more than half of the memory; checks and conversions need the other half.

    Raises:
        DataError: it would.
    """
    limit = memory_bytes() // 2
    if size_bytes > limit:
        size = f"{size_bytes / GIB:,.0f} GiB where {limit / GIB:,.0f} GiB are to be had"
        raise DataError.at(where, f"{what} would take {size}", mend)
