"""Hold what a bundle needs of its engine against what is installed, before the engine sees the model."""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable
from importlib import metadata

from gnnexport.bundle.manifest import Target
from gnnexport.errors import MissingExtraError, UnsupportedError

_DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}
"""Engines, and the packages that bring them."""

_CLAUSE = re.compile(r"(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+)*)")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def check_requirements(target: Target, where: str) -> None:
    """Check the version ranges of engines that a manifest states, such as `>=1.18`.

    An engine that is older than the one the bundle was made with, but within the range, is warned of. One that
    is not installed is left to the backend, which knows how to get it.

    Args:
        target: of the manifest.
        where: names the bundle in messages.

    Raises:
        MissingExtraError: the engine installed is outside the range.
        UnsupportedError: a range that this version cannot read.
    """
    for engine in _DISTRIBUTIONS:
        installed = _installed(engine)
        if installed is None:
            continue
        wanted = target.requirements.get(engine)
        if wanted is not None and not _fits(installed, str(wanted), where):
            what = f"needs {engine} {wanted}, and {installed} is installed"
            raise MissingExtraError.at(where, what, f"Run: pip install '{engine}{wanted}'")
        made = target.versions.get(engine)
        if made is not None and _older(installed, made):
            message = (
                f"{where}: made with {engine} {made}, and the older {installed} is installed. "
                f"Run 'gnnexport validate' to prove it here, or pip install '{engine}>={made}'."
            )
            warnings.warn(message, RuntimeWarning, stacklevel=3)


def _fits(installed: str, wanted: str, where: str) -> bool:
    clauses = [_CLAUSE.fullmatch(clause.strip()) for clause in wanted.split(",")]
    if None in clauses:
        what = f"states the requirement '{wanted}', which this version cannot read"
        raise UnsupportedError.at(where, what, "Run: pip install --upgrade gnnexport")
    return all(_COMPARE[clause[1]](*_aligned(installed, clause[2])) for clause in clauses if clause)


def _older(installed: str, made: str) -> bool:
    here, there = _aligned(installed, made)
    return here < there


def _aligned(first: str, second: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of two versions, as many of each."""
    left, right = _numbers(first), _numbers(second)
    longest = max(len(left), len(right))
    return (*left, *[0] * (longest - len(left))), (*right, *[0] * (longest - len(right)))


def _numbers(version: str) -> list[int]:
    """Read the numbers of a version; what follows them, such as `rc1` or `+cpu`, is left out."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return [int(part) for part in found[0].split(".")] if found else []


def _installed(engine: str) -> str | None:
    """Return the version of an engine without importing it."""
    for name in _DISTRIBUTIONS[engine]:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
