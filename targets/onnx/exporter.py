"""The translations that PyTorch's exporter to ONNX knows, read once for a process.

`torch.onnx.export` reads the sources of all of them for each model, half a second every time, and keeps its list to
itself. The list is read from where it lies; torch is pinned to one series for reasons like this.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.onnx._internal.exporter import _decomp, _registration

OPSET = 20


@functools.cache
def torchlib() -> _registration.ONNXRegistry:
    """Read the exporter's own translations."""
    with quiet():
        return _registration.ONNXRegistry.from_torchlib(OPSET)


@functools.cache
def decompositions() -> dict[Any, Any]:
    """Return how the exporter takes ops apart that have no translation."""
    implemented = set(_decomp.get_onnx_implemented_overloads(torchlib()))
    return dict(_decomp.create_onnx_friendly_decomposition_table(implemented))


def with_more(translations: dict[Any, Any]) -> _registration.ONNXRegistry:
    """Return the exporter's translations and others by overload, which go before its own."""
    registry = copy.copy(torchlib())
    registry.functions = {target: list(known) for target, known in registry.functions.items()}
    for target, function in translations.items():
        registry.register_op(target, function)
    return registry


@contextmanager
def quiet() -> Iterator[None]:
    """Let the exporter log errors only: it warns of ops of libraries that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
