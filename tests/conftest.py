"""Settings for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from torch_geometric.nn import Sequential

# More threads than a small machine has cores make torch and ONNX Runtime wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "2")

# The same examples on every run; how long one takes says nothing about the code.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.load_profile("repeatable")

_FORWARD = Sequential.forward


@pytest.fixture(autouse=True)
def _sequential_forgets() -> Iterator[None]:
    """Undo what PyG's Sequential does to its class: the code generated for one model, run by all without their own."""
    Sequential.forward = _FORWARD
    yield
    Sequential.forward = _FORWARD
