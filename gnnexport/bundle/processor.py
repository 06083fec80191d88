"""The processor of this machine: what timing decided on one may be wrong on another."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

from gnnexport.bundle.record import Record

_CPUINFO = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_TELLING = (
    "sse4_2",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)

MOST_THREADS = 1024
"""Threads beyond which nothing is gained on any machine, and much is lost: each engine starts them all."""


class Processor(Record):
    """A processor by name, and its features that decide which kernel is fastest."""

    name: str
    features: tuple[str, ...] = ()


@cache
def this_processor() -> Processor:
    """Return the processor of this machine; without features where the system does not list them."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return read_cpuinfo(text, fallback=platform.processor() or platform.machine() or "unknown")


def read_cpuinfo(text: str, *, fallback: str) -> Processor:
    """Read the first processor of a Linux `/proc/cpuinfo`."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip().lower(), value.strip())
    flags = set((values.get("flags") or values.get("features") or "").split())
    return Processor(name=values.get("model name") or fallback, features=tuple(f for f in _TELLING if f in flags))


def usable_cores(quota: Path = _QUOTA) -> int:
    """Return the cores this process may use: its affinity, and the quota of its container rounded up.

    Args:
        quota: file with the quota and the period in microseconds, or `max`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = quota.read_text().split()
        return max(1, min(allowed, -(-int(limit) // int(period))))
    except (OSError, ValueError):
        return allowed
